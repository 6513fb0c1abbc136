"""How long the certificates of both sides are still valid, for `midge doctor`.

Nobody notices a certificate before it has expired, and then nobody is let in.
"""

import socket
import ssl
from datetime import UTC, datetime

from midge.diagnosis import Finding, Remedy
from shared import certificates
from shared.config import Broker

_SOON_DAYS = 30
_PATIENCE_S = 10.0


def examine(broker: Broker, now: datetime, renewal: str) -> list[Finding]:
    """A finding for the broker's certificate, and one for ours; `renewal` is its command."""
    if not broker.encrypted:
        return []
    found = [judge("broker's certificate", _of_broker(broker), now, "midge certs broker --renew")]
    if broker.cert_file is not None:
        _, ends = certificates.valid(broker.cert_file) or (None, None)
        found.append(judge("our certificate", ends, now, renewal))
    return found


def judge(what: str, ends: datetime | None, now: datetime, command: str) -> Finding:
    """A warning when it ends soon; `command` makes a new one."""
    if ends is None:
        return Finding(what, "not tested", "it could not be read")
    days = (ends - now).days
    figure = f"valid until {ends:%Y-%m-%d}, {days} days"
    if days >= _SOON_DAYS:
        return Finding(what, "ok", figure)
    remedy = Remedy(
        "After that day no connection is made any more. Where the authority is, and then bring the "
        "new files to where the old ones are:",
        (command,),
    )
    return Finding(what, "warning", figure, remedy)


def _of_broker(broker: Broker) -> datetime | None:
    """When the certificate ends that the broker shows."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        if broker.cert_file is not None:
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        address = (broker.host, broker.port)
        with (
            socket.create_connection(address, _PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as encrypted,
        ):
            shown = encrypted.getpeercert() or {}
    except OSError:
        return None
    ends = shown.get("notAfter")
    if not isinstance(ends, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
