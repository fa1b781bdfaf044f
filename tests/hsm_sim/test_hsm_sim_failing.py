"""HSMs that fail: callers hear of it, the thread and the token go on."""

import asyncio

import grpc
import pytest

from farthing.hsm import Hsm, HsmBusy, HsmError
from farthing.hsm.thread import MAX_WAITING_HANDSHAKES
from farthing.hsm.tls import channel_credentials
from farthing.hsm.tmpfs import find_tmpfs
from farthing.hsm.token import MODULE_IN_USE
from farthing.hsm.transport import make_transport_key
from farthing_hsm_sim.ceremony import destroy_below, hold
from farthing_hsm_sim.failing import FailingHsm, Faults
from farthing_hsm_sim.plan import Plan
from farthing_hsm_sim.softhsm import MODULE_PLACES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not any(each.is_file() for each in MODULE_PLACES), reason="no libsofthsm2.so: apt-get install softhsm2"
    ),
]


@pytest.fixture(scope="module")
def party(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing") / "parties"
    yield hold(Plan(gateways=("gw-1",), shared_tokens=True), folder).gateways["gw-1"]
    destroy_below(folder)


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def token(party, faults):
    hsm = FailingHsm(module_path=party.module_path, softhsm_conf=party.softhsm_conf, faults=faults)
    hsm.start()
    yield hsm.attach(party)
    faults.clear()
    faults.plug_in()
    faults.loosen(failing_ppm=0, seed=0)
    faults.fail_next(0)
    hsm.close()


async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
    return request


async def test_pulled_and_put_back(token, faults):
    faults.unplug()
    with pytest.raises(HsmError):
        await token.sign("batch", b"")
    faults.plug_in()
    assert await token.sign("batch", b"")


async def test_one_operation_fails(token, faults):
    faults.fail_next(1)
    results = await asyncio.gather(*(token.sign("batch", b"") for _ in range(3)), return_exceptions=True)
    assert [isinstance(each, HsmError) for each in results] == [True, False, False]


async def test_a_loose_cable_is_loose_at_the_same_places(token, faults):
    async def outcomes() -> list[bool]:
        faults.loosen(failing_ppm=400_000, seed=7)
        done = await asyncio.gather(*(token.sign("batch", b"") for _ in range(40)), return_exceptions=True)
        return [isinstance(each, bytes) for each in done]

    first = await outcomes()
    assert 0 < sum(first) < 40
    assert await outcomes() == first


async def test_while_it_hangs_the_loop_runs_and_the_queue_is_bounded(token, faults):
    faults.jam()
    stuck = asyncio.create_task(token.sign("batch", b"", urgent=True))
    g_x = bytes.fromhex("8af6f430ebe18d34184017a9a11bf511c8dff8f834730b96c1b7c8dbca2fc3b6")
    waiting = [asyncio.create_task(token.ecdh("edhoc", g_x)) for _ in range(MAX_WAITING_HANDSHAKES)]
    await asyncio.sleep(0)
    # One of all these may be on the thread already; then one more fits.
    with pytest.raises(HsmBusy):
        await asyncio.gather(token.ecdh("edhoc", g_x), token.ecdh("edhoc", g_x))
    assert not stuck.done()
    faults.clear()
    assert len(await stuck) == 64
    assert len({*await asyncio.gather(*waiting)}) == 1


@pytest.mark.skipif(find_tmpfs() is None, reason="no tmpfs to keep the listener's transport key on")
async def test_a_channel_comes_up_when_the_token_is_back(token, faults, tmp_path):
    party = token.party
    listener = make_transport_key(
        token,
        "site-ca",
        issuer_certificate=party.certificate("site-ca"),
        roots=party.certificate("ca"),
        directory=tmp_path,
        common_name="listener",
        dns_names=("localhost",),
        addresses=("127.0.0.1",),
        server=True,
        client=False,
    )
    server = grpc.aio.server()
    health = grpc.method_handlers_generic_handler("t.Door", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((health,))
    pair = (listener.key_file.read_bytes(), listener.certificate_file.read_bytes())
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([pair], root_certificates=listener.ca_file.read_bytes(), require_client_auth=True),
    )
    await server.start()
    credentials = channel_credentials(
        token, "tls", certificate_chain=party.certificate("tls"), roots=party.certificate("ca")
    )
    faults.unplug()
    options = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200))
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call = channel.unary_unary("/t.Door/Echo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"hello", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        faults.plug_in()
        assert await call(b"hello", timeout=10, wait_for_ready=True) == b"hello"
    await server.stop(None)
    listener.remove()


def test_a_token_that_hangs_does_not_hold_up_the_end(party, faults, monkeypatch):
    monkeypatch.setattr("farthing.hsm.token.CLOSING_TIMEOUT_S", 0.05)
    monkeypatch.setattr("farthing.hsm.thread.CLOSING_TIMEOUT_S", 0.05)
    hsm = FailingHsm(module_path=party.module_path, softhsm_conf=party.softhsm_conf, faults=faults)
    hsm.start()
    hsm.attach(party)
    thread = hsm._thread._thread
    faults.jam()
    with pytest.raises(HsmError, match="did not answer"):
        hsm.close()
    # Somebody is still inside the module: nobody else may enter.
    with pytest.raises(HsmError, match="already"):
        Hsm.of(party).start()
    faults.clear()
    thread.join()
    # The module is closed now; give the process back to the tests after this one.
    MODULE_IN_USE.release()
    with Hsm.of(party) as again:
        assert again.attach(party).has_key("batch")
