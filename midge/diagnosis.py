"""What `midge doctor` found: judged, with the line of configuration that mends it, and as a page.

Pure: measuring is the business of `doctor.py`, access rules that of `access.py`. Lines are
Mosquitto's; other brokers get a word where we know it.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.config import Broker

Verdict = Literal["ok", "warning", "wrong", "not tested"]
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red", "not tested": "dim"}

_ROOMY_BYTES = 2_000_000  # Mosquitto's own default since 2.1
_RETAIN = ("retain_available true",)
_QUEUE = ("max_queued_messages 10000", "max_queued_bytes 0")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a finding means for Midge, and what to write where."""

    meaning: str
    lines: tuple[str, ...] = ()
    """For a configuration file, as they stand."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe."""

    what: str
    verdict: Verdict
    figure: str
    remedy: Remedy | None = None


def unreachable(broker: Broker, reason: str, *, final: bool) -> Finding:
    """Nobody answers, or we are not let in."""
    if not final:
        remedy = Remedy(
            "No node and no aggregator can work. Is the broker running (systemctl status "
            "mosquitto), is this its address and port, does a firewall stand between? Without a "
            "listener line, as in mosquitto/lan.conf, Mosquitto 2 hears its own machine only:",
            (f"listener {broker.port}",),
        )
    elif "broker.password" in reason:
        remedy = Remedy(
            "The broker does not know this name and password. Make the user where the broker runs "
            "(first line); then --username here with MIDGE_PASSWORD in the environment, and in "
            "section [broker] of every party:",
            (
                f"mosquitto_passwd /etc/mosquitto/passwd {broker.username or 'USER'}",
                f'username = "{broker.username or "USER"}"',
                'password = "PASSWORD"',
            ),
        )
    elif "raise the broker's limit" in reason:
        remedy = Remedy("Midge begins with 16 KiB a packet.", (_max_packet_size(broker),))
    else:
        remedy = Remedy("No node and no aggregator can work with these settings.")
    return Finding("reachable", "wrong", reason, remedy)


def versions(broker: Broker, accepted: Sequence[str], problem: str) -> Finding:
    """The versions that the broker speaks; `problem` is what it said to MQTT 5."""
    figure = f"MQTT {' and '.join(accepted)}"
    if broker.protocol not in {"auto", *accepted}:
        remedy = Remedy(
            "With the version that is configured nobody can connect. In section [broker] of every "
            "party:",
            ('protocol = "auto"',),
        )
        return Finding("protocol", "wrong", figure, remedy)
    if "5" not in accepted:
        remedy = Remedy(
            "Midge works, but on 3.1.1 a message that is forbidden or too large is lost in silence "
            f"(MQTT 5: {problem.partition('; ')[0]}). "
            "Mosquitto speaks MQTT 5 from 1.6 on, RabbitMQ from 3.13 on."
        )
        return Finding("protocol", "warning", figure, remedy)
    return Finding("protocol", "ok", figure)


def no_room(topic: str, username: str | None) -> Finding:
    """The access rules forbid the topics that probes use."""
    user = (f"user {username}",) if username else ()
    remedy = Remedy(
        "Most probes need topics of their own, which no party of Midge listens to. In the file "
        "that acl_file names:",
        (*user, f"topic readwrite {topic}/#"),
    )
    return Finding("topics to test with", "warning", f"{topic}/# is forbidden", remedy)


def delivery(copies: int, *, acknowledged: bool, topic: str) -> Finding:
    """One message at QoS 1, to ourselves."""
    what = "QoS 1"
    if not acknowledged:
        remedy = Remedy(
            "Without acknowledgements nothing of Midge works: the broker must support QoS 1.",
            ("max_qos 1",),
        )
        return Finding(what, "wrong", "no PUBACK came", remedy)
    if copies == 0:
        remedy = Remedy(
            "The broker acknowledged a message and did not deliver it. Access rules do that, in "
            "silence on MQTT 3.1.1; in the file that acl_file names:",
            (f"topic readwrite {topic}/#",),
        )
        return Finding(what, "wrong", "acknowledged, never delivered", remedy)
    if copies > 1:
        remedy = Remedy(
            "Midge counts no update twice, but pays for each copy. Is there a bridge "
            "that sends messages in a circle?"
        )
        return Finding(what, "warning", f"delivered {copies} times", remedy)
    return Finding(what, "ok", "acknowledged, delivered once")


def packets(
    broker: Broker,
    announced: int | None,
    passed: Sequence[int],
    failed: int | None = None,
    reason: str = "",
) -> Finding:
    """Messages of several sizes, there and back.

    Args:
        broker: its `packet_limit_bytes` is what should pass.
        announced: what the broker takes by its own words; None when it says nothing.
        passed: sizes in bytes that came back whole.
        failed: the size that did not; None when all of them did.
        reason: how the connection ended; empty when the message was dropped in silence.
    """
    what, wanted = "packet limit", broker.packet_limit_bytes
    largest = max(passed, default=0)
    ours = f"packet_limit_bytes = {largest}"
    if failed is not None:
        how = f"ended the connection: {reason}" if reason else "acknowledged and dropped"
        figure = f"{largest:,} bytes pass; {failed:,} {how}"
        # On MQTT 5 Mosquitto announces max_packet_size, and we keep to what is announced.
        if reason and broker.protocol != "5":
            line, why = _max_packet_size(broker), "EMQX: mqtt.max_packet_size"
        else:
            line, why = "message_size_limit 0", "max_packet_size is the limit that is announced"
        remedy = Remedy(
            "Of the model and of updates, packets above this size never arrive, and on MQTT 3.1.1 "
            f"nobody is told. In the broker's configuration ({why})"
            + (
                ", or else, in section [broker] of every party, the second line:"
                if largest
                else ":"
            ),
            (line, ours) if largest else (line,),
        )
        return Finding(what, "wrong", figure, remedy)
    if announced is not None and announced < wanted:
        remedy = Remedy(
            f"Midge keeps to what the broker announces, in packets smaller than its setting of "
            f"{wanted:,}: slower, nothing is lost. In the broker's configuration:",
            (_max_packet_size(broker),),
        )
        return Finding(what, "warning", f"the broker takes {announced:,} bytes", remedy)
    word = "no limit" if announced is None else f"{announced:,}"
    return Finding(what, "ok", f"{wanted:,} bytes pass; the broker announces {word}")


def retained(limit: int, *, given: bool, cleared: bool) -> Finding:
    """A retained message, read by its exact name and cleared."""
    if given and cleared:
        return Finding("retained", "ok", f"{limit:,} bytes kept, given, cleared")
    meaning = "Nodes read the model from retained messages: without them nobody can join late. "
    figure = "not given to a later subscriber"
    if given:
        meaning = "An empty message must clear a retained one. "
        figure = "given, but not cleared"
    remedy = Remedy(meaning + "In the broker's configuration:", _RETAIN)
    return Finding("retained", "wrong", figure, remedy)


def wildcard(*, given: bool) -> Finding:
    """For information: Midge never relies on it."""
    figure = "given" if given else "not given"
    return Finding("retained, wildcard", "ok", f"{figure}; Midge does without")


def will(seconds: float | None, keepalive_s: int) -> Finding:
    """After a client vanished."""
    if seconds is None:
        remedy = Remedy(
            "A node that dies is taken for alive until the deadline of its round. Wills are "
            "retained: the broker must allow that, and the access rules the will's topic.",
            _RETAIN,
        )
        return Finding("will", "wrong", "none came", remedy)
    half_open_s = 1.5 * keepalive_s
    return Finding(
        "will", "ok", f"{seconds:.1f} s after a crash; {half_open_s:.0f} s after a link goes silent"
    )


def takeover(*, fires: bool) -> Finding:
    """For information: the protocol takes either."""
    figure = "its will comes" if fires else "its will does not come"
    return Finding("client id taken over", "ok", f"{figure}; Midge takes either")


def round_trip(seconds: Sequence[float]) -> Finding:
    """Small messages to ourselves."""
    median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
    return Finding("round trip", "ok", f"median {median:.1f} ms, worst {worst:.1f} ms")


def throughput(size: int, came: int, sent: int, seconds: float) -> Finding:
    """Large messages, sent at once and received back."""
    if came < sent:
        figure = f"{came} of {sent} packets of {size:,} bytes came back"
        meaning = "The broker acknowledges and drops what comes quickly. In its configuration:"
        return Finding("throughput", "wrong", figure, Remedy(meaning, _QUEUE))
    rate = sent * size / seconds / 1e6
    return Finding("throughput", "ok", f"{rate:.1f} MB/s there and back, {size:,} bytes a packet")


def broken(what: str, reason: str) -> Finding:
    """The connection ended in the middle of a probe."""
    if what == "retained":
        meaning = (
            "The connection ended over a retained message: the aggregator can publish no model. In "
            "the broker's configuration:"
        )
        return Finding(what, "wrong", reason, Remedy(meaning, _RETAIN))
    meaning = "The connection ended when this was tried; the broker's log says more."
    return Finding(what, "wrong", reason, Remedy(meaning))


def left_behind(topics: Sequence[str]) -> Finding:
    """Retained messages of ours that could not be cleared."""
    lines = tuple(f"mosquitto_pub -r -n -t {topic}" for topic in topics)
    remedy = Remedy("Harmless, but the broker keeps them. They are cleared by:", lines)
    return Finding("tidying up", "warning", f"{len(topics)} retained messages may remain", remedy)


def lost(dropped: str | None, broker: str | None) -> Finding:
    """The broker's own count of messages that it dropped, and what it says of itself."""
    what = "dropped messages"
    if dropped is None and broker is not None and broker.startswith("mosquitto"):
        # It retains its figures for a minute and repeats those that changed.
        return Finding(what, "ok", "none in the last minute")
    if dropped is None or not dropped.isdecimal():
        figure = "no such count; for Mosquitto perhaps: topic read $SYS/#"
        return Finding(what, "not tested", figure)
    if int(dropped) == 0:
        return Finding(what, "ok", "0 since the broker started")
    remedy = Remedy(
        "Since it started the broker dropped messages in silence, because a client's queue was "
        "full. Midge sends again what was lost, and rounds take longer. In the broker's "
        "configuration:",
        _QUEUE,
    )
    return Finding(what, "warning", f"{int(dropped):,} since the broker started", remedy)


def version(text: str | None) -> Finding:
    """What the broker says of itself."""
    if text is None:
        return Finding("broker", "not tested", "it does not say what it is")
    return Finding("broker", "ok", text)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing is wrong."""
    return int(any(finding.verdict == "wrong" for finding in findings))


def show(console: Console, address: str, findings: Sequence[Finding]) -> None:
    """Print the findings as a table, and below it what to do about them."""
    table = Table(box=None, padding=(0, 2), title=f"broker {address}", title_justify="left")
    for column in ("probe", "result", "figure"):
        table.add_column(column)
    for finding in findings:
        verdict = Text(finding.verdict, style=_COLOURS[finding.verdict])
        table.add_row(finding.what, verdict, Text(finding.figure))
    console.print(table)
    for finding in findings:
        if finding.remedy is not None:
            head = Text(f"\n{finding.what}: ", style=_COLOURS[finding.verdict])
            console.print(head.append(finding.remedy.meaning, style="default"))
            for line in finding.remedy.lines:  # whole, so that it can be copied
                console.print(Text(f"    {line}", style="bold"), soft_wrap=True)


def _max_packet_size(broker: Broker) -> str:
    return f"max_packet_size {max(_ROOMY_BYTES, broker.packet_limit_bytes)}"
