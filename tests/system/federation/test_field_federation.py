"""A small federation behind the field broker, from the folders that `midge certs` writes, as they
are.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aggregator import journal
from aggregator.journal import JOURNAL

if TYPE_CHECKING:
    from field import FieldBroker

    from tests.system.federation.conftest import Workplace

pytestmark = pytest.mark.system

MIDGE = [sys.executable, "-m", "midge"]


def test_a_federation_with_certificates_from_start_to_end(
    place: "Workplace", field: "Callable[..., FieldBroker]", pki: Path
) -> None:
    broker = field("field.conf")

    def start(party: str, command: str, prefix: str, **settings: object) -> None:
        shutil.copytree(pki / party, place.home / command / Path(party).name)
        ours = {f"{prefix}{name}": str(value) for name, value in settings.items()}
        port = {f"{prefix}BROKER__PORT": str(broker.port), f"{prefix}TASK": "null"}
        folder = str(place.home / command / Path(party).name)
        program = ["env", "-C", folder, *MIDGE, command, "--config", f"{command}.toml"]
        place.start(program, {**port, **ours})

    start("aggregator", "aggregator", "MIDGE_AGGREGATOR_",
          ROUNDS__ROUNDS=3, ROUNDS__MIN_NODES=2)  # fmt: skip
    start("nodes/kitchen", "node", "MIDGE_NODE_")
    start("nodes/cellar", "node", "MIDGE_NODE_")

    written = place.home / "aggregator" / "aggregator" / "state" / JOURNAL

    def versions() -> list[dict[str, Any]] | None:
        lines = list(journal.read(written)) if written.exists() else []
        found = [line for line in lines if line["event"] == "version"]
        return found if len(found) == 3 else None

    for line in place.until(versions, "three versions"):
        assert [one["node"] for one in line["counted"]] == ["cellar", "kitchen"]
