"""Whose a signing key is: certificates that a root issued itself, each naming one key's role and owner by one URI."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from farthing.ids import key_uri


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs among a certificate's alternative names; ``ValueError`` where they cannot be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def issued(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether ``root``, a CA, issued the certificate itself: a CA below it may not name anybody's signing key."""
    try:
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return constraints.ca


def certified(
    certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], *, role: str, owner: str
) -> list[bytes]:
    """The keys (SubjectPublicKeyInfo) that a root says are ``owner``'s for ``role`` ("batch", "receipt", "log").

    ``owner`` empty: anybody's, for the roles of which there is one owner.
    """
    wanted = key_uri(role, owner)
    keys = []
    for certificate in certificates:
        uris = uris_of(certificate)
        named = uris == [wanted] if owner else len(uris) == 1 and uris[0].startswith(wanted)
        if named and any(issued(certificate, root) for root in roots):
            keys.append(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return keys


def read_certificate(der: bytes) -> x509.Certificate:
    """A certificate whose key and names can be read; ``ValueError`` for anything else."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        uris_of(certificate)
    except UnsupportedAlgorithm as err:
        raise ValueError("a key of a kind that is not known here") from err
    return certificate
