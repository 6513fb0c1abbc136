"""paho's client without its copies: a large packet comes into one buffer, its payload is a view of
that, and what goes out is not cut up again at each partial send. For `session.py` alone.

It stands on names of paho 2.2 that are private there. A paho that lacks one is refused;
`docs/decisions/0018-a-lean-client.md` says why they are worth it.
"""

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

import paho.mqtt
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import (
    CallbackAPIVersion,
    LogLevel,
    MessageType,
    MQTTErrorCode,
    MQTTProtocolVersion,
)
from paho.mqtt.exception import MalformedPacket

from shared.errors import ConfigError
from shared.events import Payload
from shared.packets import TAKE_BYTES, MalformedError, Packet, PacketReader, varint

READ_BYTES = 4 * 2**20
"""At most so much in one `loop_read`: then it is the turn of other work in the thread."""

_PRIVATE = ("_easy_log", "_loop_rc_handle", "_packet_handle", "_packet_queue", "_send_puback")
_PRIVATE_FIELDS = ("_in_packet", "_last_bytes_received", "_sock")
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RETAIN, _QOS = 0x01, 0x06
_QOS_1 = 0x02

Take = Callable[[bytes, Payload, bool], None]
"""Takes a message: topic, payload, whether the broker retains it."""


class LeanClient(Client):
    """A client of one connection. It hands its messages to `take` and acknowledges them then.

    Raises ConfigError when the paho that is installed is another one inside.
    """

    def __init__(self, client_id: str, version: str, take: Take) -> None:
        self._five = version == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        missing = [name for name in _PRIVATE if not hasattr(Client, name)]
        missing += [name for name in _PRIVATE_FIELDS if not hasattr(self, name)]
        if missing:
            raise ConfigError(
                f"paho-mqtt {paho.mqtt.__version__} lacks {', '.join(missing)}, which this release "
                "relies on: install paho-mqtt 2.2"
            )
        self._take = take
        self._reader = PacketReader()
        self._answered = False
        """Whether the broker's answer to CONNECT is here."""

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - bytes are counted
        """Take in what the socket has, READ_BYTES at most; never waits."""
        try:
            code = self._read()
        except _NOTHING_YET:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except (MalformedError, MalformedPacket) as error:
            self._easy_log(LogLevel.MQTT_LOG_ERR, "the broker broke the protocol: %s", error)
            code = MQTTErrorCode.MQTT_ERR_PROTOCOL
        except OSError as error:
            self._easy_log(LogLevel.MQTT_LOG_ERR, "failed to receive on socket: %s", error)
            code = MQTTErrorCode.MQTT_ERR_CONN_LOST
        return self._loop_rc_handle(code)

    def _read(self) -> MQTTErrorCode:
        left_bytes = READ_BYTES
        while left_bytes > 0 and self._sock is not None:
            sock = cast("socket.socket", self._sock)
            # By itself, so that others hear that we are connected before a message comes.
            most_bytes = TAKE_BYTES if self._answered else 1
            received, packets = self._reader.receive(sock, most_bytes)
            if not received:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            left_bytes -= received
            self._last_bytes_received = time.monotonic()  # as paho's clock
            for packet in packets:
                if code := self._handle(packet):
                    return code
            if packets and not self._answered:
                self._answered = True
                break
            # TLS gives one record at a time, so it has more until it says no.
            if self._reader.drained and not isinstance(sock, ssl.SSLSocket):
                break
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle(self, packet: Packet) -> MQTTErrorCode:
        if packet.command & 0xF0 == MessageType.PUBLISH:
            return self._published(packet)
        self._in_packet |= {
            "command": packet.command,
            "remaining_length": len(packet.rest),
            "packet": bytearray(packet.rest),
        }
        return self._packet_handle()

    def _published(self, packet: Packet) -> MQTTErrorCode:
        """A message at QoS 0 or 1; we never ask for more."""
        qos, rest = packet.command & _QOS, packet.rest
        end = 2 + int.from_bytes(rest[:2], "big")
        start = end + 2 if qos else end
        if self._five:
            properties_bytes, start = varint(rest, start)
            start += properties_bytes  # none of them is of use to us
        if qos > _QOS_1 or start > len(rest):
            raise MalformedError("a message that nobody asked for, or torn")
        payload: Payload = rest[start:]
        if 2 * len(payload) < len(rest):
            payload = bytes(payload)  # as a view it would keep properties, uncounted
        self._take(bytes(rest[2:end]), payload, bool(packet.command & _RETAIN))
        if not qos:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return self._send_puback(int.from_bytes(rest[end : end + 2], "big"))

    def let_go(self) -> None:
        """Forget who takes the messages, so that it is not kept by us."""
        self._take = lambda *_: None

    def _packet_queue(
        self,
        command: int,
        packet: bytes | bytearray,
        mid: int,
        qos: int,
        info: MQTTMessageInfo | None = None,
    ) -> MQTTErrorCode:
        # paho slices off what is left after each partial send: of a view that copies nothing.
        view: Any = memoryview(packet)
        return super()._packet_queue(command, view, mid, qos, info)

    def _easy_log(self, level: LogLevel, fmt: str, *args: Any) -> None:  # noqa: ANN401
        """Errors alone; paho formats a line for each packet otherwise."""
        if level == LogLevel.MQTT_LOG_ERR:
            super()._easy_log(level, fmt, *args)
