"""The MQTT ingress against a real Mosquitto, with the certificates and rules that we write for it."""

import asyncio
import contextlib
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from edge_playbook import until

from farthing.device.messages import AnswerStatus, ChainTick, decode_answer, encode_tick
from farthing.hsm import Hsm, Party, Token
from farthing.hsm.transport import TransportKey
from farthing.refusal import Refusal
from farthing_edge.broker import BrokerError, BrokerFiles, client_key, device_key, write_broker
from farthing_edge.config import MqttSection
from farthing_edge.ingress.mqtt import MqttIngress
from farthing_hsm_sim.ceremony import Parties

pytestmark = pytest.mark.real


def tls(key: TransportKey) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(key.ca_file))
    context.load_cert_chain(str(key.certificate_file), str(key.key_file))
    return context


def client(broker: Any, key: TransportKey, **more: Any) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", broker.port, tls_context=tls(key), timeout=5, **more)


class Serving:
    """An ingress that runs, and says when it is connected."""

    def __init__(self, make: Callable[[Callable[[bool], None]], MqttIngress]) -> None:
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(make(self._changed).run())

    def _changed(self, connected: bool) -> None:
        (self.up if connected else self.down).set()
        (self.down if connected else self.up).clear()


@contextlib.contextmanager
def running(files: BrokerFiles) -> Iterator[None]:
    """A broker for as long as it is needed."""
    process = subprocess.Popen(files.command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def serve(token: Token, party: Party, tmp_path: Path) -> AsyncIterator[Callable[..., Serving]]:
    begun: list[Serving] = []

    def start(address: str, door: Any, socket: Path | None = None) -> Serving:
        begun.append(
            Serving(
                lambda on_change: MqttIngress(
                    section=MqttSection(address=address, socket=socket, max_backoff_s=0.2, min_backoff_s=0.05),
                    door=door.door,
                    metrics=door.metrics,
                    make_key=lambda: client_key(token, party, "gateway", directory=None),
                    on_change=on_change,
                )
            )
        )
        return begun[-1]

    yield start
    for each in begun:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in begun), return_exceptions=True)


async def ask(device: aiomqtt.Client, name: str, payload: bytes) -> bytes:
    await device.publish(f"farthing/{name}/up", payload, qos=1)
    message = await asyncio.wait_for(anext(aiter(device.messages)), 10)
    assert message.topic.value == f"farthing/{name}/down"
    return bytes(message.payload)


async def test_ticks_come_in_on_a_topic_of_their_own(
    broker: Any, serve: Any, open_door: Any, meter_key: TransportKey
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)
    tick = ChainTick(authorization=bytes(16), index=7, preimage=b"w" * 32)
    async with client(broker, meter_key) as device:
        # To nobody else's: the broker throws it away.
        await device.publish("farthing/meter-2/tick", encode_tick(tick), qos=1)
        await device.publish("farthing/meter-1/tick", encode_tick(tick), qos=1)
        await until(lambda: bool(door.engine.ticks))
        # A tick is no statement: nothing is said to it, and nothing refused.
        await device.subscribe("farthing/meter-1/down", qos=1)
        answer = decode_answer(await ask(device, "meter-1", b"rubbish"))
    assert (answer.refusal, door.refusals(100)) == (Refusal.MALFORMED, 1)
    (command,) = door.engine.ticks
    assert (command.device, command.authorization, command.shown) == ("meter-1", bytes(16), ((7, b"w" * 32),))
    assert door.engine.heard == []


@pytest.fixture
def meter_key(token: Token, party: Party, tmp_path: Path) -> TransportKey:
    return device_key(token, party, "meter-1", directory=tmp_path / "meter-1")


async def test_a_statement_comes_in_and_its_answer_goes_out(
    broker: Any, serve: Any, open_door: Any, meter: Any, meter_key: TransportKey, said: Any
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)

    async with client(broker, meter_key) as device:
        await device.subscribe("farthing/meter-1/down", qos=1)
        answer = decode_answer(await ask(device, "meter-1", said.envelope(meter, said.intent(7))))

    assert (answer.status, answer.answers) == (AnswerStatus.RECORDED, (1, 7))
    heard = door.engine.heard[0]
    assert heard.key_epoch == 1
    assert heard.token_ref is not None
    assert heard.token_ref != said.CARD
    assert heard.traceparent is not None


@pytest.fixture
def way_in() -> Iterator[Path]:
    """A socket in a folder of its own; pytest's own folders may have paths that are too long for one."""
    with tempfile.TemporaryDirectory(prefix="farthing-") as folder:
        yield Path(folder) / "way-in" / "broker.sock"


async def test_a_gateway_on_the_brokers_host_comes_through_its_socket(
    token: Token,
    party: Party,
    serve: Any,
    open_door: Any,
    meter: Any,
    meter_key: TransportKey,
    said: Any,
    tmp_path: Path,
    way_in: Path,
) -> None:
    port = said.free_port()
    files = write_broker(token, party, listen=f"127.0.0.1:{port}", directory=tmp_path / "broker", socket=way_in)
    with running(files):
        serving = serve(f"127.0.0.1:{port}", open_door(), way_in)
        await asyncio.wait_for(serving.up.wait(), 10)

        # A certificate that says "gateway" is nobody's here: it hears nothing of the devices, and takes no session over.
        stolen = tls(client_key(token, party, "gateway", directory=tmp_path / "stolen"))
        async with (
            aiomqtt.Client("127.0.0.1", port, tls_context=tls(meter_key), timeout=5) as device,
            aiomqtt.Client("127.0.0.1", port, tls_context=stolen, timeout=5) as thief,
        ):
            await thief.subscribe("farthing/+/up", qos=1)
            await device.subscribe("farthing/meter-1/down", qos=1)
            answer = decode_answer(await ask(device, "meter-1", said.envelope(meter, said.intent(7))))
            # What it says as a gateway goes nowhere; what it may hear comes in order, so nothing was before this.
            await thief.subscribe("farthing/gateway/down", qos=1)
            await thief.publish("farthing/meter-1/down", b"forged", qos=1)
            heard = decode_answer(await ask(thief, "gateway", b"rubbish"))
            again = decode_answer(await ask(device, "meter-1", said.envelope(meter, said.intent(8))))
        assert serving.up.is_set()
    assert heard.refusal is Refusal.MALFORMED
    assert again.answers == (1, 8)
    assert (answer.status, answer.answers) == (AnswerStatus.RECORDED, (1, 7))
    await asyncio.wait_for(serving.down.wait(), 15)


async def test_a_socket_that_others_can_reach_is_no_way_in(token: Token, party: Party, way_in: Path) -> None:
    way_in.parent.mkdir(mode=0o755)
    with pytest.raises(BrokerError, match="others may enter"):
        write_broker(token, party, listen="127.0.0.1:1", directory=way_in.parent / "broker", socket=way_in)


async def test_one_slow_statement_does_not_hold_up_another(
    broker: Any, serve: Any, open_door: Any, meter: Any, meter_key: TransportKey, said: Any
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)

    async with client(broker, meter_key) as device:
        await device.subscribe("farthing/meter-1/down", qos=1)
        # 999 waits in the engine until another one has been heard.
        await device.publish("farthing/meter-1/up", said.envelope(meter, said.intent(999)), qos=1)
        first = decode_answer(await ask(device, "meter-1", said.envelope(meter, said.intent(8))))
        message = await asyncio.wait_for(anext(aiter(device.messages)), 10)

    assert {first.answers, decode_answer(bytes(message.payload)).answers} == {(1, 8), (1, 999)}


async def test_a_device_cannot_speak_on_anothers_topic(
    broker: Any,
    serve: Any,
    open_door: Any,
    meter: Any,
    meter_key: TransportKey,
    token: Token,
    party: Party,
    tmp_path: Path,
    said: Any,
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)
    stranger = device_key(token, party, "meter-2", directory=tmp_path / "meter-2")

    async with client(broker, stranger) as thief, client(broker, meter_key) as device:
        await device.subscribe("farthing/meter-1/down", qos=1)
        await thief.subscribe("farthing/+/down", qos=1)
        await thief.subscribe("farthing/meter-2/down", qos=1)
        # The broker acknowledges what it throws away.
        await thief.publish("farthing/meter-1/up", said.envelope(meter, said.intent(1)), qos=1)
        await device.publish("farthing/meter-1/up", said.envelope(meter, said.intent(2)), qos=1)
        await asyncio.wait_for(anext(aiter(device.messages)), 10)
        # Its own topic does carry: with another's statement, it is refused by number, and nothing before came through.
        answer = decode_answer(await ask(thief, "meter-2", said.envelope(meter, said.intent(3))))

    assert answer.refusal is Refusal.CHANNEL_DIFFERS
    assert [heard.statement.counter for heard in door.engine.heard] == [2]


async def test_a_neighbour_sites_client_is_turned_away(
    broker: Any, parties: Parties, hsm: Hsm, party: Party, tmp_path: Path
) -> None:
    """Both sites' CAs lead to one root; each broker trusts only its own."""
    neighbour = parties.gateways["gw-2"]
    theirs = client_key(hsm.attach(neighbour), neighbour, "gateway", directory=tmp_path / "neighbour")
    context = ssl.create_default_context(cafile=str(broker.files.anchor))
    context.load_cert_chain(str(theirs.certificate_file), str(theirs.key_file))

    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", broker.port, tls_context=context, timeout=1):
            pass
    assert broker.process.poll() is None


async def test_a_client_id_of_the_gateways_evicts_nobody(
    broker: Any, serve: Any, open_door: Any, meter: Any, meter_key: TransportKey, said: Any
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)

    async with client(broker, meter_key, identifier="gateway", clean_session=True) as device:
        await device.subscribe("farthing/meter-1/down", qos=1)
        answer = decode_answer(await ask(device, "meter-1", said.envelope(meter, said.intent(1))))

    assert answer.status is AnswerStatus.RECORDED
    assert serving.up.is_set()


async def test_without_a_broker_it_keeps_trying_until_there_is_one(
    token: Token, party: Party, serve: Any, open_door: Any, tmp_path: Path, said: Any
) -> None:
    address = f"127.0.0.1:{said.free_port()}"
    serving = serve(address, open_door())
    files = write_broker(token, party, listen=address, directory=tmp_path / "late")
    assert not serving.up.is_set()
    with running(files):
        await asyncio.wait_for(serving.up.wait(), 15)
    await asyncio.wait_for(serving.down.wait(), 15)
    assert not serving.task.done()
    with running(files):
        await asyncio.wait_for(serving.up.wait(), 15)


async def test_garbage_is_counted_sampled_and_refused(
    broker: Any, serve: Any, open_door: Any, meter_key: TransportKey
) -> None:
    door = open_door()
    serving = serve(broker.address, door)
    await asyncio.wait_for(serving.up.wait(), 10)

    async with client(broker, meter_key) as device:
        await device.subscribe("farthing/meter-1/down", qos=1)
        answers = [decode_answer(await ask(device, "meter-1", bytes([n]) * 9)) for n in range(6)]

    assert {answer.refusal for answer in answers} == {Refusal.MALFORMED}
    assert door.refusals(100) == 6
    assert len(door.rubbish.samples()) == 4
    assert door.engine.heard == []
