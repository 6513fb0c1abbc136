"""How long certificates are still valid, as `midge doctor` tells it."""

from datetime import UTC, datetime, timedelta

from midge import lifetimes
from shared.config import Broker

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_certificate_that_ends_soon_is_a_warning_with_the_command() -> None:
    late = lifetimes.judge("ours", NOW + timedelta(days=29), NOW, "midge certs node NAME --renew")
    assert late.verdict == "warning"
    assert late.figure == "valid until 2026-03-30, 29 days"
    assert late.remedy is not None
    assert late.remedy.lines == ("midge certs node NAME --renew",)
    assert lifetimes.judge("ours", NOW + timedelta(days=30), NOW, "").verdict == "ok"
    assert lifetimes.judge("ours", None, NOW, "").verdict == "not tested"


def test_without_encryption_there_is_nothing_to_say() -> None:
    assert lifetimes.examine(Broker(), NOW, "") == []
