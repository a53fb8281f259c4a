"""The certificate authority of a domain (K-AS): who may call itself by which slot, proven by ECDSA P-256 certificates.

One authority per domain, self-signed, kept beside the control centre. It signs two kinds of certificates. *Node*
certificates name a slot: the common name is what access control and the direct streams compare, so a node proves who
it is and nothing more; they live for hours, because a burned slot must stop working even where a revocation is never
heard. *Server* certificates carry the addresses under which a router or an enrolment endpoint is reached; a node
certificate carries none, so no node can pass itself off as the router.

A private key is made where it is used and never travels; files with keys are readable by their owner only. There is no
revocation list: short lifetimes do that work. There is no intermediate authority: a domain is one trust zone.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import DomainId, NodeId
from daitn.base.names import check_name

AUTHORITY_CERT_FILE: Final = "authority.crt"
AUTHORITY_KEY_FILE: Final = "authority.key"

AUTHORITY_DAYS: Final = 3650
"""An authority outlives every node; replacing it means enrolling the domain anew."""

SERVER_HOURS: Final = 24 * 397
"""Routers and enrolment endpoints are restarted by operators, so their certificates last as long as browsers allow."""

NODE_HOURS: Final = 24.0
"""Default lifetime of a node certificate; renewed at half of it."""

NODE_HOURS_MAX: Final = 24.0 * 31
"""Longest lifetime asked of the authority: a burned slot stays usable at most that long."""

CLOCK_SKEW: Final = datetime.timedelta(days=1)
"""Certificates begin this much in the past, so that a clock that is late by less (a time zone mistaken, a battery that
is empty) keeps nobody from a link. It costs nothing: a key that is not made yet cannot be misused before."""

CSR_BYTES: Final = 8 * 1024
"""Largest signing request read; one for P-256 is 400 bytes."""

_ORGANIZATION: Final = NameOID.ORGANIZATION_NAME
_UNREADABLE: Final = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)
"""What `cryptography` raises for bytes that are no certificate, request or key it can work with."""

LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1", "localhost")


class Authority:
    """A domain's certificate authority with its signing key in memory."""

    def __init__(self, domain: DomainId, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.domain = domain
        self.certificate = certificate
        self._key = key

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, which every member pins."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER bytes in hexadecimal; what a join token carries."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue_node(self, csr_pem: bytes, slot: NodeId, *, lifetime_hours: float = NODE_HOURS) -> bytes:
        """Certificate (PEM) that lets the holder of the request's key be `slot` for `lifetime_hours` (0 < h ≤ 744).

        Names and extensions in the request are ignored: only its key counts. PeerError for a request that does not
        decode, is not signed by its own key, or has a key that is not P-256.
        """
        if not 0 < lifetime_hours <= NODE_HOURS_MAX:
            raise InputError(
                f"certificate lifetime of {lifetime_hours} h is out of range", todo=f"use 0 to {NODE_HOURS_MAX:.0f} h"
            )
        names: list[x509.GeneralName] = [x509.DNSName(slot_host(self.domain, slot))]
        return self._sign(slot, _request_key(csr_pem), names, datetime.timedelta(hours=lifetime_hours))

    def issue_server(
        self, name: str, hosts: Sequence[str] = (), *, lifetime_hours: float = SERVER_HOURS
    ) -> tuple[bytes, bytes]:
        """(certificate, private key), both PEM, for a router or an endpoint reached at loopback and `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in dict.fromkeys((*LOOPBACK_HOSTS, *hosts))]
        certificate = self._sign(name, key.public_key(), names, datetime.timedelta(hours=lifetime_hours))
        return certificate, key_pem(key)

    def _sign(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        lifetime: datetime.timedelta,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            _builder(_subject(self.domain, common_name), self.certificate.subject, key)
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def create_authority(directory: Path, domain: DomainId) -> Authority:
    """Make the authority of `domain` and keep it in `directory` (made if missing, mode 0700).

    InputError if one is already there: overwriting it would cut off every member.
    """
    check_name("domain", domain)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (directory / AUTHORITY_KEY_FILE).exists():
        raise InputError(f"{directory} already holds an authority", todo="load it, or choose another directory")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = _subject(domain, f"{domain} authority")
    builder = (
        _builder(subject, subject, key.public_key())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    authority = Authority(domain, builder.sign(key, hashes.SHA256()), key)
    write_private(directory / AUTHORITY_KEY_FILE, key_pem(key))
    write_public(directory / AUTHORITY_CERT_FILE, authority.certificate_pem)
    return authority


def load_authority(directory: Path) -> Authority:
    """The authority kept in `directory`; InputError if there is none or its files do not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / AUTHORITY_CERT_FILE).read_bytes())
        key = serialization.load_pem_private_key((directory / AUTHORITY_KEY_FILE).read_bytes(), password=None)
        # Parts of a certificate are parsed when they are first looked at, and may only then turn out not to be whole.
        certified, domains = certificate.public_key(), certificate.subject.get_attributes_for_oid(_ORGANIZATION)
    except (OSError, *_UNREADABLE) as fault:
        raise InputError(f"no usable authority in {directory}: {fault}", todo="make one for this domain") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certified or not domains:
        raise InputError(f"key and certificate in {directory} do not belong together", todo="restore both files")
    return Authority(DomainId(str(domains[0].value)), certificate, key)


def make_request(name: str, private_key: bytes | None = None) -> tuple[bytes, bytes]:
    """(signing request, private key), both PEM: what a joining node makes for itself, or renews with its key."""
    key = ec.generate_private_key(ec.SECP256R1()) if private_key is None else _load_key(private_key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM), key_pem(key)


def request_key_hash(csr_pem: bytes) -> str:
    """SHA-256 of the public key in a signing request; PeerError if the request is not usable."""
    key = _request_key(csr_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(key).hexdigest()


def only_certificate(pem: bytes) -> bytes:
    """The first certificate in `pem` and nothing else; PeerError if it does not decode.

    Trust stores load every certificate they are given: what was checked must be all that is trusted.
    """
    return _load_certificate(pem).public_bytes(serialization.Encoding.PEM)


def fingerprint_of(certificate_pem: bytes) -> str:
    """SHA-256 of a certificate's DER bytes in hexadecimal; PeerError if it does not decode."""
    return _load_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def common_name_of(certificate_pem: bytes) -> str:
    """The common name a certificate proves; PeerError if it does not decode or has none."""
    try:
        names = _load_certificate(certificate_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except _UNREADABLE:
        raise PeerError("the subject of a certificate does not decode") from None
    if not names:
        raise PeerError("a certificate has no common name")
    return str(names[0].value)


def is_issued_by(certificate_pem: bytes, authority_pem: bytes, now_unix_s: float) -> bool:
    """Whether this authority issued a certificate of a node or server that holds at this moment, directly."""
    certificate, authority = _load_certificate(certificate_pem), _load_certificate(authority_pem)
    try:
        certificate.verify_directly_issued_by(authority)
        begun, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except (*_UNREADABLE, x509.InvalidVersion):
        return False
    return begun <= now_unix_s < ends


def sign_with(private_key_pem: bytes, message: bytes) -> bytes:
    """ECDSA signature (SHA-256) with a node's key."""
    return _load_key(private_key_pem).sign(message, ec.ECDSA(hashes.SHA256()))


def is_signed_with(certificate_pem: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of a certificate's key signed this message."""
    try:
        key = _load_certificate(certificate_pem).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except _UNREADABLE:
        return False
    return True


def renewal_of(certificate_pem: bytes) -> float:
    """When a certificate should be renewed, in seconds since 1970: at half of its lifetime."""
    issued, (_, end) = issued_at(certificate_pem), validity_of(certificate_pem)
    return issued + (end - issued) / 2


def issued_at(certificate_pem: bytes) -> float:
    """When a certificate was issued, in seconds since 1970, by the clock of who issued it."""
    start, end = validity_of(certificate_pem)
    issued = start + CLOCK_SKEW.total_seconds()
    return issued if issued < end else (start + end) / 2  # an earlier version had certificates begin minutes before


def validity_of(certificate_pem: bytes) -> tuple[float, float]:
    """When a certificate begins and ends, in seconds since 1970; PeerError if it does not decode."""
    certificate = _load_certificate(certificate_pem)
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def clock_fault(certificate_pem: bytes, now_unix_s: float) -> str:
    """What a clock that shows this moment has to do with a certificate that is not good now; empty: it is good."""
    begins, ends = validity_of(certificate_pem)
    if begins <= now_unix_s < ends:
        return ""
    bound, word = (begins, "begins") if now_unix_s < begins else (ends, "ended")
    return f"this machine's clock shows {_day_and_time(now_unix_s)}, the certificate {word} at {_day_and_time(bound)}"


def _day_and_time(unix_s: float) -> str:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def expiry_of(certificate_pem: bytes) -> float:
    """When a certificate ends, in seconds since 1970."""
    return validity_of(certificate_pem)[1]


def slot_host(domain: DomainId, slot: NodeId) -> str:
    """The host name under which a slot's certificate is checked on direct streams; it resolves nowhere."""
    return f"{slot}.{domain}.daitn.internal"


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS 8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all, readable by the owner only (0600)."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all, readable by all (0644)."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    # mkstemp makes the file 0600, so a key is at no moment readable by others.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(domain: DomainId, common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _request_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    if len(csr_pem) > CSR_BYTES:
        raise PeerError(f"signing request of {len(csr_pem)} bytes is larger than {CSR_BYTES}")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        signed, key = request.is_signature_valid, request.public_key()
    except _UNREADABLE as fault:
        raise PeerError("signing request does not decode", todo="send a PEM request for a P-256 key") from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerError("signing request has a key that is not P-256", todo="make a P-256 key")
    if not signed:
        raise PeerError("signing request is not signed by its own key")
    return key


def _load_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except _UNREADABLE as fault:
        raise InputError("the node's private key does not decode", todo="enrol anew with a join token") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("the node's private key is not P-256", todo="enrol anew with a join token")
    return key


def _load_certificate(certificate_pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except _UNREADABLE as fault:
        raise PeerError("a certificate does not decode") from fault
