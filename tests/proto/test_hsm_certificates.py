"""Certificates and TLS from a token: a ceremony's chain, transport keys, and real gRPC over mTLS."""

import asyncio
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from farthing.hsm import Hsm, HsmError
from farthing.hsm.certificate import CertificateRequest, sign_certificate
from farthing.hsm.tls import CLIENT_CERTIFICATE_VERIFY, channel_credentials, is_client_certificate_verify
from farthing.hsm.tmpfs import find_tmpfs, is_tmpfs
from farthing.hsm.transport import make_transport_key
from farthing_hsm_sim.ceremony import destroy_below, hold
from farthing_hsm_sim.plan import Plan
from farthing_hsm_sim.softhsm import MODULE_PLACES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not any(each.is_file() for each in MODULE_PLACES), reason="no libsofthsm2.so: apt-get install softhsm2"
    ),
    pytest.mark.skipif(find_tmpfs() is None, reason="no tmpfs to keep transport keys on"),
]


@pytest.fixture(scope="module")
def parties(tmp_path_factory):
    out = tmp_path_factory.mktemp("certificates") / "parties"
    yield hold(Plan(gateways=("gw-1",), devices=("m-1",), people=("alice",), shared_tokens=True), out)
    destroy_below(out)


@pytest.fixture(scope="module")
def hsm(parties):
    with Hsm.of(parties.cloud) as running:
        yield running


@pytest.fixture(scope="module")
def cloud(hsm, parties):
    return hsm.attach(parties.cloud)


@pytest.fixture(scope="module")
def gateway(hsm, parties):
    return hsm.attach(parties.gateways["gw-1"])


def transport_key(token, label, directory, **more):
    party = token.party
    return make_transport_key(
        token,
        label,
        **{
            "issuer_certificate": party.certificate(label),
            "roots": party.certificate("ca"),
            "directory": directory,
            "common_name": "listener",
            "dns_names": ("localhost",),
            "addresses": ("127.0.0.1",),
            "server": True,
            "client": False,
            **more,
        },
    )


def test_a_transport_key_lives_on_tmpfs_for_a_day(cloud, tmp_path):
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    made = transport_key(cloud, "issuing", tmp_path / "tls", now=now)
    assert is_tmpfs(made.key_file.parent)
    assert stat.S_IMODE(made.key_file.stat().st_mode) == 0o600
    assert made.not_after == now + timedelta(days=1)
    leaf, issuer = x509.load_pem_x509_certificates(made.certificate_file.read_bytes())
    assert leaf.not_valid_after_utc == made.not_after
    leaf.verify_directly_issued_by(issuer)
    root = x509.load_pem_x509_certificate(made.ca_file.read_bytes())
    issuer.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    key = load_pem_private_key(made.key_file.read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    # The library that serves TLS takes it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate_file, made.key_file)
    made.remove()
    assert not made.key_file.exists()


def test_each_start_makes_another_key(cloud):
    first, second = (transport_key(cloud, "issuing", None) for _ in range(2))
    assert first.key_file.read_bytes() != second.key_file.read_bytes()
    for each in (first, second):
        each.remove()
        assert not each.key_file.parent.exists()


def test_a_daemon_that_starts_again_replaces_its_key(cloud, tmp_path):
    first = transport_key(cloud, "issuing", tmp_path)
    before = first.key_file.read_bytes()
    second = transport_key(cloud, "issuing", tmp_path)
    assert second.key_file == first.key_file
    assert second.key_file.read_bytes() != before
    second.remove()


@pytest.mark.parametrize("name", ["", "../up", ".hidden"])
def test_a_common_name_names_a_file(cloud, name):
    with pytest.raises(HsmError, match="file"):
        transport_key(cloud, "issuing", None, common_name=name)


def request_for(name: str, **more) -> CertificateRequest:
    now = datetime.now(UTC)
    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    return CertificateRequest(
        common_name=name,
        public_key=spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(hours=1),
        **more,
    )


def test_an_issuer_that_will_not_do_is_refused(cloud):
    issuing = cloud.party.certificate("issuing")
    with pytest.raises(HsmError, match="may not issue"):
        sign_certificate(cloud, "issuing", request_for("a CA below", path_length=0), issuer_certificate=issuing)
    with pytest.raises(HsmError, match="not the one of the issuer"):
        sign_certificate(cloud, "receipt", request_for("leaf"), issuer_certificate=issuing)
    late = replace(request_for("leaf"), not_after=datetime.now(UTC) + timedelta(days=40 * 365))
    with pytest.raises(HsmError, match="renew"):
        sign_certificate(cloud, "issuing", late, issuer_certificate=issuing)
    leaf = sign_certificate(cloud, "issuing", request_for("leaf"), issuer_certificate=issuing)
    with pytest.raises(HsmError, match="may not issue"):
        sign_certificate(cloud, "issuing", request_for("below"), issuer_certificate=leaf)


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (CLIENT_CERTIFICATE_VERIFY + bytes(32), True),
        (CLIENT_CERTIFICATE_VERIFY + bytes(48), True),
        (CLIENT_CERTIFICATE_VERIFY + bytes(33), False),
        (CLIENT_CERTIFICATE_VERIFY.replace(b"client", b"server") + bytes(32), False),
        (b"\x84\x6aSignature1" + bytes(100), False),
        (b"", False),
    ],
)
def test_what_the_tls_key_signs(content, is_one):
    assert is_client_certificate_verify(content) is is_one


async def who_called(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    uris = context.auth_context().get("peer_uri", [])
    return request + b" " + b",".join(uris)


@pytest.fixture
async def door(cloud, tmp_path):
    """A listener with mTLS that says who called."""
    listener = transport_key(cloud, "issuing", tmp_path)
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("t.Door", {"Who": grpc.unary_unary_rpc_method_handler(who_called)})
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials(
        [(listener.key_file.read_bytes(), listener.certificate_file.read_bytes())],
        root_certificates=listener.ca_file.read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)
    listener.remove()


async def call(address: str, credentials: grpc.ChannelCredentials) -> bytes:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        return await channel.unary_unary("/t.Door/Who")(b"hello", timeout=10)


async def test_a_gateway_speaks_tls_with_the_key_in_its_token(door, gateway):
    party = gateway.party
    credentials = channel_credentials(
        gateway, "tls", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
    )
    # The token is busy with other work meanwhile, on the same thread.
    said, *_ = await asyncio.gather(
        call(door, credentials), *(gateway.sign("batch", b"x", urgent=True) for _ in range(50))
    )
    assert said == b"hello spiffe://farthing/gateway/gw-1"


async def test_a_service_is_who_the_issuing_ca_says(door, cloud):
    made = transport_key(
        cloud, "issuing", None, common_name="ledger", uris=("spiffe://farthing/service/ledger",), client=True
    )
    credentials = grpc.ssl_channel_credentials(
        made.ca_file.read_bytes(), made.key_file.read_bytes(), made.certificate_file.read_bytes()
    )
    assert await call(door, credentials) == b"hello spiffe://farthing/service/ledger"
    made.remove()


async def test_a_stolen_site_ca_cannot_name_a_service(door, gateway):
    made = transport_key(
        gateway, "site-ca", None, common_name="thief", uris=("spiffe://farthing/service/ledger",), client=True
    )
    credentials = grpc.ssl_channel_credentials(
        made.ca_file.read_bytes(), made.key_file.read_bytes(), made.certificate_file.read_bytes()
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(door, credentials)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    made.remove()


async def test_another_key_than_the_certificates_is_refused(door, gateway):
    party = gateway.party
    credentials = channel_credentials(
        gateway, "batch", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(door, credentials)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_token_without_the_key_says_so_at_once(cloud):
    with pytest.raises(HsmError, match="no key 'tls'"):
        channel_credentials(cloud, "tls", certificate_chain=b"", roots=b"")


def test_the_signer_refuses_everything_else(gateway, monkeypatch):
    captured = {}
    monkeypatch.setattr(
        grpc.experimental, "ssl_channel_credentials_with_custom_signer", lambda **given: captured.update(given)
    )
    channel_credentials(gateway, "tls", certificate_chain=b"", roots=b"")
    sign = captured["private_key_sign_fn"]
    algorithm = grpc.experimental.PrivateKeySignatureAlgorithm
    with pytest.raises(HsmError, match="CertificateVerify"):
        sign(b"\x84\x6aSignature1", algorithm.ECDSA_SECP256R1_SHA256, None)
    with pytest.raises(HsmError, match="P-256"):
        sign(CLIENT_CERTIFICATE_VERIFY + bytes(32), algorithm.RSA_PSS_RSAE_SHA256, None)
