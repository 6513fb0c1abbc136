"""The small authority of a federation: its keys, the certificates it signs, and what it takes back.

Everything here is made in memory and given back as PEM; which file holds what is the business of
`certs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import ConfigError

AUTHORITY_DAYS = 3650

_BACKDATED = timedelta(days=1)  # a Raspberry Pi has no clock battery, and comes up behind
_CURVE = ec.SECP256R1()  # every OpenSSL and every microcontroller knows it


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates for one federation."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str, now: datetime) -> Self:
        """Make one that vouches for itself."""
        key = ec.generate_private_key(_CURVE)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _begun(subject, subject, key, now, now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, pair: Pair) -> Self:
        """Read what `pair` wrote; ValueError when that cannot be, or the two do not belong."""
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != certificate.public_key()
        ):
            raise ValueError("certificate and key do not belong together")
        return cls(certificate, key)

    @property
    def pair(self) -> Pair:
        """Its own certificate, which everybody has, and its key, which nobody else may have."""
        return Pair(_pem(self._certificate), _pem_key(self._key))

    @property
    def ends(self) -> datetime:
        """After this nothing that it signed is valid any more."""
        return self._certificate.not_valid_after_utc

    def check_clock(self, now: datetime) -> None:
        """ConfigError when the authority is not valid now, or this machine's clock is wrong."""
        begins = self._certificate.not_valid_before_utc
        if not begins <= now <= self.ends:
            raise ConfigError(
                f"the authority is valid from {begins:%Y-%m-%d} to {self.ends:%Y-%m-%d}, and this "
                f"machine's clock says {now:%Y-%m-%d}: set the clock, or make a new authority"
            )

    def issue(  # the six things that are in a certificate
        self,
        name: str,
        serial: int,
        now: datetime,
        days: int,
        role: Literal["broker", "client"],
        hosts: Sequence[str] = (),
    ) -> tuple[Pair, datetime]:
        """A new key and its certificate, and when that ends: never later than the authority."""
        key = ec.generate_private_key(_CURVE)
        ends = min(now + timedelta(days=days), self.ends)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = {"broker": ExtendedKeyUsageOID.SERVER_AUTH}.get(
            role, ExtendedKeyUsageOID.CLIENT_AUTH
        )
        ours = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        )
        begun = (
            _begun(subject, self._certificate.subject, key, now, ends, serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(ours, critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            begun = begun.add_extension(names, critical=False)
        certificate = begun.sign(self._key, hashes.SHA256())
        return Pair(_pem(certificate), _pem_key(key)), ends

    def revocation_list(self, revoked: Sequence[tuple[int, datetime]], number: int) -> bytes:
        """The serial numbers that are taken back, and since when; PEM.

        It is as old as the authority and ends with it: a broker lets nobody in whose list is
        expired, or not valid yet by a clock that is behind.
        """
        begun = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(self._certificate.not_valid_before_utc)
            .next_update(self.ends)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        for serial, since in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            begun = begun.add_revoked_certificate(one.build())
        return begun.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_serial() -> int:
    """A number that no other certificate has."""
    return x509.random_serial_number()


def is_address(host: str) -> bool:
    """Whether this is an IP address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    ends: datetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or new_serial())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host)) if is_address(host) else x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
