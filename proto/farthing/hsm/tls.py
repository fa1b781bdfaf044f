"""TLS towards the cloud with the private key in the token.

gRPC hands over what it wants signed. The key signs a TLS 1.3 client's CertificateVerify and nothing else, so that it cannot
be made to sign a batch, a certificate or a server's handshake.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from farthing.hsm.errors import HsmError
from farthing.hsm.token import SIGNATURE_SIZE, Token

if TYPE_CHECKING:
    # gRPC is a tenth of a gateway's start, which answers devices before it speaks to anybody: it is loaded with the first credentials.
    import grpc
    from grpc.experimental import PrivateKeySignatureAlgorithm, PrivateKeySignOnComplete

#: RFC 8446, section 4.4.3: 64 spaces, the context string, a zero byte, then the transcript's hash.
CLIENT_CERTIFICATE_VERIFY = b" " * 64 + b"TLS 1.3, client CertificateVerify\x00"
#: SHA-256 or SHA-384, by cipher suite.
_HASH_SIZES = (32, 48)


def is_client_certificate_verify(content: bytes) -> bool:
    """Whether ``content`` is what a TLS 1.3 client signs in its handshake, and nothing else."""
    return (
        content.startswith(CLIENT_CERTIFICATE_VERIFY) and len(content) - len(CLIENT_CERTIFICATE_VERIFY) in _HASH_SIZES
    )


def der_signature(raw: bytes) -> bytes:
    """r ‖ s as the DER that TLS and X.509 carry (RFC 3279, section 2.2.3)."""
    half = SIGNATURE_SIZE // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def read_roots(file: Path) -> bytes:
    """The PEM in ``file`` that peers' certificates must lead to; ``HsmError`` if it holds no certificate."""
    try:
        roots = file.read_bytes()
        x509.load_pem_x509_certificates(roots)
    except (OSError, ValueError) as err:
        raise HsmError(f"{file} is no certificate (PEM): copy the one of the ceremony's CA, ca.pem") from err
    return roots


def channel_credentials(
    token: Token, label: str, *, certificate_chain: bytes, roots: bytes
) -> "grpc.ChannelCredentials":
    """Credentials of a channel whose client key is ``label`` in ``token``; chain and roots are PEM.

    One signature per connection. A token that fails makes the connection fail (UNAVAILABLE, tried again by gRPC).
    """
    if not token.has_key(label):
        raise HsmError(f"{token.party.id}'s token has no key {label!r} to speak TLS with")
    import grpc.experimental
    from grpc.experimental import PrivateKeySignatureAlgorithm as Algorithm

    def sign(
        content: bytes, algorithm: "PrivateKeySignatureAlgorithm", on_complete: "PrivateKeySignOnComplete"
    ) -> bytes:
        del on_complete  # for signers that answer later; this one runs on gRPC's own thread and may wait
        if algorithm != Algorithm.ECDSA_SECP256R1_SHA256:
            raise HsmError(f"the TLS key signs ECDSA on P-256 with SHA-256 only, not {algorithm}")
        if not is_client_certificate_verify(content):
            raise HsmError("the TLS key signs a TLS 1.3 client's CertificateVerify only")
        return der_signature(token.sign_blocking(label, content))

    with warnings.catch_warnings():
        # The function is experimental, and the only way to keep the key in the token.
        warnings.simplefilter("ignore", grpc.experimental.ExperimentalApiWarning)
        made: grpc.ChannelCredentials = grpc.experimental.ssl_channel_credentials_with_custom_signer(
            private_key_sign_fn=sign, root_certificates=roots, certificate_chain=certificate_chain
        )
    return made
