"""X.509 certificates signed by a key in a token.

The library builds the certificate and can only sign it with a key in memory: it does so with a throw-away key of the same kind,
and the part that is signed (TBSCertificate), which names no such key, is signed again by the token.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from farthing.hsm.errors import HsmError
from farthing.hsm.tls import der_signature
from farthing.hsm.token import Token

#: DER of AlgorithmIdentifier { ecdsa-with-SHA256 } (RFC 5758, section 3.2).
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What a certificate is to say.

    ``path_length`` is None for an end entity, else the certificate is a CA's, with that many CAs allowed below it. ``server`` and
    ``client`` are the TLS roles; an end entity with neither only signs. ``excluded_uri_hosts`` are hosts that no URI below this CA
    may name (RFC 5280, section 4.2.1.10).
    """

    common_name: str
    public_key: bytes
    not_before: datetime
    not_after: datetime
    uris: Sequence[str] = ()
    dns_names: Sequence[str] = ()
    addresses: Sequence[str] = ()
    path_length: int | None = None
    server: bool = False
    client: bool = False
    excluded_uri_hosts: Sequence[str] = ()


def sign_certificate(
    token: Token, issuer_label: str, request: CertificateRequest, *, issuer_certificate: bytes | None
) -> bytes:
    """The certificate (PEM) that the key ``issuer_label`` gives to ``request``; blocking.

    ``issuer_certificate`` is the issuer's PEM (the first in a chain), or None for a root that signs itself. ``HsmError`` if the
    issuer's certificate is not that of ``issuer_label``, is no CA, or ends before the new one.
    """
    public_key = load_der_public_key(request.public_key)
    if not isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise HsmError(f"{request.common_name}: certificates are for keys on P-256 and Ed25519 only")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.common_name)])
    if issuer_certificate is None:
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise HsmError(f"{request.common_name}: a root has a key on P-256")
        issuer, issuer_key = subject, public_key
    else:
        issuer, issuer_key = _issuer(issuer_certificate, request)

    is_ca = request.path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(request.not_before)
        .not_valid_after(request.not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=request.path_length), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    names: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(uri) for uri in request.uris),
        *(x509.DNSName(name) for name in request.dns_names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in request.addresses),
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if request.excluded_uri_hosts:
        hosts = [x509.UniformResourceIdentifier(host) for host in request.excluded_uri_hosts]
        builder = builder.add_extension(
            x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=hosts), critical=True
        )
    roles = [
        *([ExtendedKeyUsageOID.SERVER_AUTH] if request.server else []),
        *([ExtendedKeyUsageOID.CLIENT_AUTH] if request.client else []),
    ]
    if roles:
        builder = builder.add_extension(x509.ExtendedKeyUsage(roles), critical=False)

    throw_away = ec.generate_private_key(ec.SECP256R1())
    to_be_signed = builder.sign(throw_away, hashes.SHA256()).tbs_certificate_bytes
    signature = der_signature(token.sign_blocking(issuer_label, to_be_signed))
    der = _der(0x30, to_be_signed + _ECDSA_WITH_SHA256 + _der(0x03, b"\x00" + signature))
    certificate = x509.load_der_x509_certificate(der)
    try:
        issuer_key.verify(signature, to_be_signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as err:
        raise HsmError(f"the key {issuer_label!r} is not the one of the issuer's certificate") from err
    return certificate.public_bytes(Encoding.PEM)


def _issuer(pem: bytes, request: CertificateRequest) -> tuple[x509.Name, ec.EllipticCurvePublicKey]:
    certificate = x509.load_pem_x509_certificate(pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or (request.path_length is not None and constraints.path_length == 0):
        raise HsmError(f"{certificate.subject.rfc4514_string()} may not issue the certificate of {request.common_name}")
    if certificate.not_valid_after_utc < request.not_after:
        raise HsmError(
            f"{certificate.subject.rfc4514_string()} ends before {request.common_name}'s certificate would: renew it"
        )
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise HsmError(f"{certificate.subject.rfc4514_string()} has no key on P-256")
    return certificate.subject, key


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _der(tag: int, content: bytes) -> bytes:
    """One DER element (X.690, section 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content
