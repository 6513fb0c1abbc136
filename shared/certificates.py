"""Certificates that do not fit, told in one line with the cause and what mends it.

Connections are judged by OpenSSL; here its words become ours. Certificates are about the time of
day, so this module may ask for it, and only to explain.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from shared.config import Broker

# Of X509_verify_cert_error_string(3):
_NOT_YET_VALID, _EXPIRED = 9, 10
_STRANGERS = {2, 18, 19, 20, 21}  # no issuer, or one that nobody vouches for
_OTHER_HOST = {62, 64}
_RENEW = "midge certs node NAME --renew, or midge certs aggregator --renew"


def may_pass(error: ssl.SSLError) -> bool:
    """Whether TLS failed because the road broke, or because our clock is not set yet."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_code == _NOT_YET_VALID
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def distrusted(error: ssl.SSLCertVerificationError, broker: Broker) -> str:
    """Why we do not trust the broker's certificate."""
    if error.verify_code == _NOT_YET_VALID:
        return f"its certificate is not valid yet by our clock, {_today()}: set this clock"
    if error.verify_code == _EXPIRED:
        return (
            f"its certificate has expired by our clock, {_today()}: renew it where it was made "
            "(midge certs broker --renew), or set this clock"
        )
    if error.verify_code in _OTHER_HOST:
        return (
            f"its certificate is not for {broker.host}: set broker.host to a name that is in it, "
            f"or make one for this too (midge certs broker --renew --host {broker.host} ...)"
        )
    if error.verify_code in _STRANGERS:
        whom = f"the authority in {broker.ca_file}" if broker.ca_file else "an authority we know"
        return (
            f"its certificate is not from {whom} ({error.verify_message}): check broker.host, and "
            "set broker.ca_file to the ca.pem that was made with it"
        )
    return f"its certificate is no good: {error.verify_message}; check broker.ca_file"


def refused(reason: str, broker: Broker) -> str:
    """Why the broker does not take our certificate, from what ended the connection; "" if that had
    nothing to do with certificates.
    """
    alert = reason.lower().replace("_", " ")
    ours = str(broker.cert_file)
    if broker.cert_file is None:
        wanted = "certificate required" in alert or "handshake failure" in alert
        asks = "it wants a certificate: set broker.cert_file and broker.key_file"
        return asks if wanted else ""
    if "certificate revoked" in alert:
        return f"it has revoked our certificate {ours}: make a new one ({_RENEW})"
    if "unknown ca" in alert:
        return (
            f"our certificate {ours} is not from the authority that it trusts: make one with that "
            "(midge certs)"
        )
    if "unsupported certificate" in alert:
        return f"our certificate {ours} is not one for clients: make one ({_RENEW})"
    begins, ends = valid(broker.cert_file) or (None, None)
    now = datetime.now(UTC)
    if ends is not None and ends < now:
        return (
            f"our certificate {ours} expired on {ends:%Y-%m-%d}: renew it ({_RENEW}), or set this "
            f"clock, which says {_today()}"
        )
    if "certificate expired" in alert or "bad certificate" in alert:
        span = f", valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}" if begins and ends else ""
        what = "expired" if "expired" in alert else "no good, or not valid yet"
        return (
            f"by its clock our certificate {ours} is {what}{span}: set the broker's clock and ours"
        )
    return f"it does not accept our certificate {ours}: {reason}" if "certificate" in alert else ""


def valid(path: Path) -> tuple[datetime, datetime] | None:
    """From when until when the first certificate in a PEM file is valid; None if there is none."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
