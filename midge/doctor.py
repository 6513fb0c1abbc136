"""`midge doctor`: tries a broker with what Midge asks of it, and says what is wrong.

Only measures; what a figure means stands in `diagnosis.py`. Probes use topics below
`midge/v1/_doctor/`, which are no run's; only `access.py` needs those of a run.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal

from midge import access, diagnosis, lifetimes
from midge.access import Role
from midge.diagnosis import Finding
from midge.probe import PATIENCE_S, LinkError, Probe, patience_s
from shared.config import LEAST_PACKET_BYTES, Broker
from shared.topics import DOCTOR

Version = Literal["5", "3.1.1"]

_HEADER_BYTES = 12  # as the transport counts it
_MOST_BYTES = 2**28  # where the protocol ends; who takes so much announces nothing
_SIZES_BYTES = (LEAST_PACKET_BYTES, 128 * 1024, 2**20)
_ECHOES = 20
_BURST_S = 1.5  # of large messages, as far as they are quick
_SHORT_S = 1.5  # for what may well not come


class Doctor:
    """The probes of one broker, in the order in which a fault explains those after it."""

    def __init__(self, broker: Broker, role: Role | None, progress: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        """What is known so far."""
        self._broker = broker
        self._role = role
        self._progress = progress
        self._token = secrets.token_hex(4)
        self._room = f"{DOCTOR}/{self._token}"
        self._clients = 0
        self._kept: set[str] = set()
        """Topics on which the broker may retain something of ours."""
        self._keeps = False
        """Whether it took a retained message."""
        self._largest = 0
        """The largest packet that came back."""
        self._whole_s = 1.0
        """How long that took."""
        self._accepted: list[Version] = []
        """The versions that the broker speaks."""

    def examine(self) -> None:
        """Run all probes; leaves nothing behind, however it ends."""
        try:
            if self._let_in():
                if self._may_test():
                    self._try_room()
                self._try_rules()
                self._read_statistics()
        finally:
            self._clear()

    def _let_in(self) -> bool:
        """Connect with each version; settles the version that everything else uses."""
        self._progress("connecting")
        problems: dict[str, str] = {}
        took_s = 0.0
        first: LinkError | None = None
        versions: tuple[Version, ...] = ("5", "3.1.1")
        for version in versions:
            began = time.monotonic()
            try:
                with self._client(protocol=version):
                    took_s = took_s or time.monotonic() - began
                self._accepted.append(version)
            except LinkError as error:
                problems[version] = str(error)
                first = first or error
                if str(error).startswith("cannot reach"):
                    break
        if not self._accepted and first is not None:
            told = diagnosis.unreachable(self._broker, str(first), final=first.final)
            self.findings.append(told)
            return False
        how = "TLS" if self._broker.encrypted else "TCP"
        self.findings += [
            Finding("reachable", "ok", f"{how}, let in after {took_s * 1000:.0f} ms"),
            diagnosis.versions(self._broker, self._accepted, problems.get("5", "")),
            *lifetimes.examine(self._broker, datetime.now(UTC), _renewal(self._role)),
        ]
        if self._broker.protocol not in self._accepted:
            self._broker = self._broker.model_copy(update={"protocol": self._accepted[0]})
        return True

    def _may_test(self) -> bool:
        """One small message; False when there is no topic to test with."""
        self._progress("one message at QoS 1")
        topic = f"{self._room}/once"
        copies, acknowledged = 0, False
        try:
            with self._client() as probe:
                probe.subscribe(topic)
                probe.say(topic, b"once")
                acknowledged = probe.acknowledged()
                if probe.hear(topic, b"once"):
                    probe.say(topic, b"end")
                    probe.hear(topic, b"end")
                copies = sum(one.payload == b"once" for one in probe.heard)
        except LinkError as error:
            if error.final:
                self.findings.append(diagnosis.no_room(DOCTOR, self._broker.username))
                return False
        found = diagnosis.delivery(copies, acknowledged=acknowledged, topic=DOCTOR)
        self.findings.append(found)
        return copies > 0

    def _try_room(self) -> None:
        self.findings.append(self._packets())
        if not self._largest:
            return
        steps = {
            "retained": self._retained,
            "retained, wildcard": self._wildcard,
            "will": self._will,
            "client id taken over": self._takeover,
            "round trip": self._round_trip,
            "throughput": self._throughput,
        }
        for what, step in steps.items():
            self._progress(what)
            if step in {self._wildcard, self._will, self._takeover} and not self._keeps:
                finding = Finding(what, "not tested", "the broker takes no retained message")
            else:
                try:
                    finding = step()
                except LinkError as error:
                    finding = diagnosis.broken(what, str(error))
            self.findings.append(finding)

    def _packets(self) -> Finding:
        wanted = self._broker.packet_limit_bytes
        with self._client(packet_limit_bytes=_MOST_BYTES) as probe:
            announced = probe.packet_limit_bytes
        passed: list[int] = []
        most = min(wanted, announced)
        for size in sorted({min(size, most) for size in (*_SIZES_BYTES, wanted)}):
            self._progress(f"a packet of {size:,} bytes")
            reason = ""
            try:
                whole = self._comes_back(size)
            except LinkError as error:
                whole, reason = False, str(error)
            if not whole:
                return diagnosis.packets(self._broker, _told(announced), passed, size, reason)
            passed.append(size)
        return diagnosis.packets(self._broker, _told(announced), passed)

    def _comes_back(self, size: int) -> bool:
        """Send a packet of `size` bytes; what is dropped in silence is overtaken by the next."""
        topic = f"{self._room}/packet"
        payload = _payload(size, topic)
        with self._client() as probe:
            probe.subscribe(topic)
            began = time.monotonic()
            probe.say(topic, payload)
            probe.say(topic, b"end")
            ended = probe.hear(topic, b"end", patience_s(size))
            if all(one.payload != payload for one in probe.heard):
                if ended:
                    return False
                raise LinkError(f"nothing came within {patience_s(size):.0f} s", final=False)
        self._largest, self._whole_s = size, time.monotonic() - began
        return True

    def _retained(self) -> Finding:
        topic = f"{self._room}/retained"
        payload = _payload(self._largest, topic)
        with self._client() as writer:
            self._keep(writer, topic, payload)
            given = self._finds(topic, topic, payload)
            writer.say(topic, b"", retain=True)
            self._fence(writer)
        cleared = not self._finds(topic, topic, payload, wait_s=0.0)
        return diagnosis.retained(self._largest, given=given, cleared=cleared)

    def _wildcard(self) -> Finding:
        topic = f"{self._room}/wild/kept"
        with self._client() as writer:
            self._keep(writer, topic, b"kept")
        return diagnosis.wildcard(given=self._finds(f"{self._room}/wild/+", topic, b"kept"))

    def _keep(self, writer: Probe, topic: str, payload: bytes) -> None:
        self._kept.add(topic)
        writer.say(topic, payload, retain=True)
        self._fence(writer, patience_s(len(payload)))
        self._keeps = True

    def _fence(self, probe: Probe, timeout_s: float = PATIENCE_S) -> None:
        """Wait for an echo: by then the broker has done what was asked before."""
        end = f"{self._room}/end"
        probe.subscribe(end)
        probe.say(end, b"")
        if not probe.hear(end, b"", timeout_s):
            raise LinkError(f"no echo within {timeout_s:.0f} s", final=False)

    def _finds(self, pattern: str, topic: str, payload: bytes, wait_s: float = _SHORT_S) -> bool:
        """Whether a newcomer is given a retained message; some brokers send it a little later."""
        with self._client() as newcomer:
            newcomer.subscribe(pattern, raw=True)
            self._fence(newcomer, patience_s(len(payload)))
            here = any(one.topic == topic and one.payload == payload for one in newcomer.heard)
            return here or newcomer.hear(topic, payload, wait_s)

    def _will(self) -> Finding:
        with self._observer() as observer, self._client(will=b"crashed") as victim:
            victim.vanish()
            began = time.monotonic()
            came = observer.hear(f"{self._room}/will", b"crashed")
            seconds = time.monotonic() - began
        return diagnosis.will(seconds if came else None, self._broker.keepalive_s)

    def _takeover(self) -> Finding:
        name = f"midge-doctor-{self._token}-twice"
        with (
            self._observer() as observer,
            self._client(will=b"replaced", name=name),
            self._client(name=name),
        ):
            fires = observer.hear(f"{self._room}/will", b"replaced", _SHORT_S)
        return diagnosis.takeover(fires=fires)

    @contextmanager
    def _observer(self) -> Iterator[Probe]:
        """A client that is sure to hear wills."""
        topic = f"{self._room}/will"
        self._kept.add(topic)
        with self._client() as observer:
            observer.subscribe(topic)
            self._fence(observer)
            yield observer

    def _round_trip(self) -> Finding:
        topic = f"{self._room}/echo"
        seconds = []
        with self._client() as probe:
            probe.subscribe(topic)
            for number in range(_ECHOES):
                payload = b"%d" % number
                began = time.monotonic()
                probe.say(topic, payload)
                if not probe.hear(topic, payload):
                    raise LinkError(
                        f"a message did not come within {PATIENCE_S:.0f} s", final=False
                    )
                seconds.append(time.monotonic() - began)
        return diagnosis.round_trip(seconds)

    def _throughput(self) -> Finding:
        topic = f"{self._room}/rate"
        size = min(self._largest, 2**20)
        count = min(8, max(1, int(_BURST_S / self._whole_s)))
        payload = _payload(size, topic)
        with self._client() as probe:
            probe.subscribe(topic)
            began = time.monotonic()
            for _ in range(count):
                probe.say(topic, payload)
            probe.say(topic, b"end")
            # Whatever the queue had no room for does not come, be it the end itself.
            probe.hear(topic, b"end", PATIENCE_S + 3 * count * self._whole_s)
            seconds = time.monotonic() - began
            came = sum(one.payload == payload for one in probe.heard)
        return diagnosis.throughput(size, came, count, seconds)

    def _try_rules(self) -> None:
        if self._role is None:
            what = Finding("access rules", "not tested", "give --node NAME, or --aggregator")
            self.findings.append(what)
            return
        self._progress("access rules")
        # Only MQTT 5 says no, and the rules are the same for both.
        speaks_5 = "5" in self._accepted
        fluent = (lambda: self._client(protocol="5")) if speaks_5 else self._client
        self.findings += access.examine(self._role, self._token, fluent, tells=speaks_5)

    def _read_statistics(self) -> None:
        self._progress("what the broker says of itself")
        version, dropped = "$SYS/broker/version", "$SYS/broker/publish/messages/dropped"
        told: dict[str, str] = {}
        with suppress(LinkError), self._client() as probe:
            probe.subscribe(version, dropped)
            for topic in (version, dropped):
                if all(one.topic != topic for one in probe.heard):
                    probe.hear(topic, timeout_s=_SHORT_S)
            told = {
                one.topic: bytes(one.payload[:80]).decode(errors="replace") for one in probe.heard
            }
        self.findings += [
            diagnosis.lost(told.get(dropped), told.get(version)),
            diagnosis.version(told.get(version)),
        ]

    def _clear(self) -> None:
        if not self._kept:
            return
        try:
            with self._client() as probe:
                for topic in sorted(self._kept):
                    probe.say(topic, b"", retain=True)
                self._fence(probe)
            return
        except LinkError:
            if not self._keeps:
                return
        self.findings.append(diagnosis.left_behind(sorted(self._kept)))

    def _client(self, *, will: bytes | None = None, name: str = "", **changes: object) -> Probe:
        """A client of the broker, its settings changed by `changes`."""
        self._clients += 1
        last = None if will is None else (f"{self._room}/will", will)
        name = name or f"midge-doctor-{self._token}-{self._clients}"
        return Probe(self._broker.model_copy(update=changes), name, last)


def _told(announced: int) -> int | None:
    return None if announced == _MOST_BYTES else announced


def _payload(size: int, topic: str) -> bytes:
    """Random bytes that make a packet of `size`."""
    return secrets.token_bytes(size - len(topic) - _HEADER_BYTES)


def _renewal(role: Role | None) -> str:
    """The command for a new certificate."""
    whose = "node NAME" if role is None else f"node {role.node}" if role.node else "aggregator"
    return f"midge certs {whose} --renew"
