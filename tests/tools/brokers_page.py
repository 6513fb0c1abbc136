"""Makes docs/brokers.md of the reports that `make test-brokers` leaves: what holds on which broker.

Called as `python brokers_page.py REPORTS PAGE`; REPORTS is a folder of JUnit files, one a broker.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

OUTCOMES = ("passed", "skipped", "fails as told", "failed")
_HEAD = """\
# What holds on which broker

Midge is made for Mosquitto; it must work on any broker that speaks MQTT 3.1.1 with QoS 1, retained
messages and wills. `make test-brokers` runs the system tests (transport and federations of real
processes, `tests/system/`) on each of these and writes this page. It is not part of CI. Tests that
bring a broker of their own (the demo, brokers that misbehave on purpose) run with Mosquitto alone.

*skipped*: the test needs something that this broker, or our set-up of it, does not have. *fails as
told*: the test must fail there, for the reason below; if it ever passes, that is an error.

"""


@dataclass
class Report:
    """What one JUnit file says."""

    broker: str
    cores: str
    day: str
    seconds: float
    count: Counter[str]
    reasons: Counter[tuple[str, str]]
    """How often, by outcome and reason; of a failure the test's name is the reason."""


def read(path: Path) -> Report:
    """Read a JUnit file that pytest wrote."""
    suite = next(ET.parse(path).getroot().iter("testsuite"))  # noqa: S314 (pytest's own file)
    said = {each.get("name"): each.get("value", "") for each in suite.iter("property")}
    count: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for case in suite.iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            outcome = OUTCOMES[2] if skipped.get("type") == "pytest.xfail" else OUTCOMES[1]
            reason = skipped.get("message", "")
        elif case.find("failure") is not None or case.find("error") is not None:
            outcome, reason = OUTCOMES[3], f"`{case.get('name')}`"
        else:
            outcome, reason = OUTCOMES[0], ""
        count[outcome] += 1
        if reason:
            reasons[outcome, reason] += 1
    return Report(
        broker=said.get("broker", path.stem),
        cores=said.get("cores", "?"),
        day=suite.get("timestamp", "")[:10],
        seconds=float(suite.get("time", "0")),
        count=count,
        reasons=reasons,
    )


def page(reports: list[Report]) -> str:
    """The whole page."""
    days = sorted({report.day for report in reports})
    cores = ", ".join(sorted({report.cores for report in reports}))
    lines = [
        f"`make test-brokers`, one run, {cores} cores, {' to '.join(days[:1] + days[1:][-1:])}:",
        "",
        f"| broker | {' | '.join(OUTCOMES)} | seconds |",
        f"|---|{'---|' * len(OUTCOMES)}---|",
    ]
    lines += [
        f"| {report.broker} | {' | '.join(str(report.count[o]) for o in OUTCOMES)} "
        f"| {report.seconds:.0f} |"
        for report in reports
    ]
    for report in reports:
        if report.reasons:
            lines += ["", f"## {report.broker}", "", "| tests | outcome | why |", "|---|---|---|"]
            lines += [
                f"| {number} | {outcome} | {reason} |"
                for (outcome, reason), number in sorted(
                    report.reasons.items(), key=lambda item: (-OUTCOMES.index(item[0][0]), item[0])
                )
            ]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    known = ("mosquitto", "rabbitmq", "nats", "amqtt")
    found = [Path(sys.argv[1], f"{name}.xml") for name in known]
    Path(sys.argv[2]).write_text(page([read(path) for path in found if path.exists()]))
