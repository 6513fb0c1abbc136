import io

import pytest
from rich.console import Console

from midge import diagnosis
from midge.diagnosis import Finding, Remedy
from shared.config import Broker


def lines(finding: Finding) -> tuple[str, ...]:
    assert finding.remedy is not None
    return finding.remedy.lines


def shown(*findings: Finding, width: int = 100) -> str:
    screen = io.StringIO()
    diagnosis.show(Console(file=screen, width=width), "broker.local:1883", findings)
    return screen.getvalue()


def test_only_what_is_wrong_makes_the_exit_code_1() -> None:
    fine = [Finding("a", "ok", ""), Finding("b", "warning", ""), Finding("c", "not tested", "")]
    assert diagnosis.exit_code(fine) == 0
    assert diagnosis.exit_code([*fine, Finding("d", "wrong", "")]) == 1


def test_a_line_of_configuration_is_never_wrapped() -> None:
    line = "topic readwrite midge/v1/" + "x" * 60
    text = shown(Finding("rules", "wrong", "no", Remedy("A long story. " * 10, (line,))), width=40)
    assert f"    {line}" in text.splitlines()


def test_what_is_well_has_no_paragraph() -> None:
    text = shown(diagnosis.delivery(1, acknowledged=True, topic="t"))
    assert [line.split() for line in text.splitlines()][1:] == [
        ["probe", "result", "figure"],
        ["QoS", "1", "ok", "acknowledged,", "delivered", "once"],
    ]


@pytest.mark.parametrize(("copies", "verdict"), [(0, "wrong"), (1, "ok"), (2, "warning")])
def test_a_message_is_delivered_once(copies: int, verdict: str) -> None:
    found = diagnosis.delivery(copies, acknowledged=True, topic="midge/v1/_doctor")
    assert found.verdict == verdict


def test_a_message_without_an_ack_is_wrong_though_it_came() -> None:
    assert diagnosis.delivery(1, acknowledged=False, topic="t").verdict == "wrong"


@pytest.mark.parametrize(
    ("protocol", "accepted", "verdict"),
    [
        ("auto", ["5", "3.1.1"], "ok"),
        ("auto", ["5"], "ok"),
        ("auto", ["3.1.1"], "warning"),
        ("3.1.1", ["3.1.1"], "warning"),
        ("5", ["3.1.1"], "wrong"),
        ("3.1.1", ["5"], "wrong"),
    ],
)
def test_the_versions_of_the_protocol(protocol: str, accepted: list[str], verdict: str) -> None:
    broker = Broker.model_validate({"protocol": protocol})
    found = diagnosis.versions(broker, accepted, "unsupported")
    assert found.verdict == verdict
    assert verdict != "wrong" or lines(found) == ('protocol = "auto"',)


def test_the_limit_of_the_broker_is_raised_to_ours_if_that_is_larger() -> None:
    broker = Broker(packet_limit_bytes=5_000_000)
    found = diagnosis.packets(broker, 2_000_000, [16_384, 2_000_000])
    assert found.verdict == "warning"
    assert lines(found) == ("max_packet_size 5000000",)


def test_a_limit_that_nobody_gets_below_has_no_setting_of_ours() -> None:
    found = diagnosis.packets(Broker(protocol="5"), None, [], 16_384, "closed")
    assert lines(found) == ("message_size_limit 0",)


def test_a_limit_above_ours_is_fine() -> None:
    found = diagnosis.packets(Broker(), 2_000_000, [16_384, 131_072, 2**20])
    assert (found.verdict, found.remedy) == ("ok", None)
    assert "announces 2,000,000" in found.figure


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("takes packets of 1000 bytes: raise the broker's limit", "max_packet_size 2000000"),
        ("no; check broker.username and broker.password", 'username = "USER"'),
    ],
)
def test_why_we_are_not_let_in_has_its_line(reason: str, line: str) -> None:
    assert line in lines(diagnosis.unreachable(Broker(), reason, final=True))


def test_a_retained_message_is_given_and_cleared() -> None:
    assert diagnosis.retained(2**20, given=True, cleared=True).verdict == "ok"
    assert diagnosis.retained(2**20, given=True, cleared=False).verdict == "wrong"
    assert lines(diagnosis.retained(2**20, given=False, cleared=True)) == ("retain_available true",)


def test_a_will_that_does_not_come_is_wrong() -> None:
    assert diagnosis.will(None, 60).verdict == "wrong"
    assert diagnosis.will(0.5, 60).figure == "0.5 s after a crash; 90 s after a link goes silent"


def test_the_round_trip_is_told_by_its_median_and_its_worst() -> None:
    assert diagnosis.round_trip([0.001, 0.002, 0.5]).figure == "median 2.0 ms, worst 500.0 ms"


def test_chunks_that_were_lost_on_the_way_ask_for_a_longer_queue() -> None:
    found = diagnosis.throughput(2**20, 5, 8, 1.0)
    assert found.verdict == "wrong"
    assert "max_queued_messages 10000" in lines(found)
    assert diagnosis.throughput(1_000_000, 8, 8, 2.0).figure.startswith("4.0 MB/s")


@pytest.mark.parametrize(
    ("dropped", "broker", "verdict"),
    [
        ("0", "mosquitto version 2.0.11", "ok"),
        ("7", "mosquitto version 2.0.11", "warning"),
        (None, "mosquitto version 2.0.11", "ok"),
        (None, "another", "not tested"),
        (None, None, "not tested"),
        ("many", None, "not tested"),
    ],
)
def test_messages_that_the_broker_dropped(
    dropped: str | None, broker: str | None, verdict: str
) -> None:
    found = diagnosis.lost(dropped, broker)
    assert found.verdict == verdict
    assert verdict != "warning" or "max_queued_messages 10000" in lines(found)
