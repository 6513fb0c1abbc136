"""Settings that every test shares."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# CI must give the same verdict on the same commit; people at work want new examples every time.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here and not in system/, where pytest would see it too late."""
    parser.addoption(
        "--broker",
        choices=("mosquitto", "rabbitmq", "nats", "amqtt", "container"),
        default="mosquitto",
        help="what the system tests run on; container: Mosquitto in Docker; see make test-brokers",
    )
    parser.addoption(
        "--may-skip",
        metavar="REASON",
        help="a test that is skipped for another reason than one that holds this fails; "
        "empty: whatever the reason, as in CI",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _forbid_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(collector.config, report)
    return report


def _forbid_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """A test that has quietly ceased to run proves nothing."""
    allowed = config.getoption("--may-skip")
    if allowed is None or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not allowed or allowed not in reason:
        report.outcome = "failed"
        report.longrepr = f"must not be skipped here: {reason}"
