"""Sessions as their devices know them, and gateways whose journal is lost: what the tests of the devices' word are told with."""

import json
from dataclasses import dataclass

from edge_playbook import TARIFFS, Gateway, Meter, Policy

from farthing.clock import SECOND_US, Instant
from farthing.device import cose
from farthing.device.messages import (
    AnswerStatus,
    Disclaimer,
    End,
    Grant,
    Intent,
    Reading,
    encode,
)
from farthing.evidence import detail
from farthing.evidence.batches import batch_hash
from farthing.tariff import parse
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Reply, Shown
from farthing_edge.authorization.events import (
    KIND_OF,
)
from farthing_edge.metering.detail import Placed, leaves_of_entries
from farthing_edge.metering.sealing import facts_of_record, leaves_of, sheet_of

HOUR = 3_600


def later(gateway: Gateway, seconds: int = 60) -> Gateway:
    gateway.at = Instant(gateway.at + seconds * SECOND_US)
    return gateway


def signed(statement: Intent | Reading | End | Disclaimer) -> bytes:
    return cose.encode_sign1(cose.key_id(statement.device.encode()), encode(statement), bytes(64))


def say(gateway: Gateway, statement: Intent | Reading | End | Disclaimer, **changes: object) -> Reply:
    token = "card" if isinstance(statement, Intent) else None
    reply = gateway.say(statement, token, cose=signed(statement), **changes)
    assert reply is not None
    return reply


@dataclass
class Open:
    """A session as its device knows it."""

    meter: Meter
    intent: Intent
    grant: Grant

    def shown(self) -> Shown:
        return Shown(
            grant=self.grant,
            grant_cose=b"g",
            first=self.intent,
            first_cose=signed(self.intent),
            first_payload=encode(self.intent),
        )

    def read(self, gateway: Gateway, value: int, **changes: object) -> Reply:
        reply = say(gateway, self.meter.reading(later(gateway), value), **changes)
        if reply.grant_of is not None:
            self.grant = gateway.grant_of(reply)
        return reply


def open_session(gateway: Gateway, device: str = "c1", value: int = 1_000, **fields: object) -> Open:
    meter = Meter(device, value, counter=0 if device == "c1" else 500)
    intent = meter.intent(gateway, **fields)
    reply = say(gateway, intent)
    assert reply.status is AnswerStatus.GRANTED, reply
    meter.authorization = reply.grant_of
    return Open(meter, intent, gateway.grant_of(reply))


def disclaim(gateway: Gateway, meter: Meter, authorization: bytes | None = None) -> Disclaimer:
    return Disclaimer(**meter.head(gateway), authorization=authorization or meter.authorization)


def restart(gateway: Gateway, start_id: bytes) -> None:
    gateway.do(commands.Started(start_id=start_id, boot_id="b", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1))


def receipt(gateway: Gateway, batch: batch_pb2.Batch) -> None:
    raw = batch.SerializeToString(deterministic=True)
    gateway.do(
        commands.ReceiptArrived(
            receipt=batch_pb2.Receipt(
                gateway_id=gateway.gateway_id,
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                batch_hash=batch_hash(raw),
            ),
            raw=b"",
        )
    )


def hello(gateway: Gateway, incarnation: int, *, waits: bool = False) -> None:
    standing = gateway_sync_pb2.HELLO_STANDING_WAITS if waits else gateway_sync_pb2.HELLO_STANDING_BEGIN
    gateway.do(commands.Connected(hello=gateway_sync_pb2.HelloResponse(incarnation=incarnation, standing=standing)))


def reborn(old: Gateway, *, complete: bool = True, open_claims: tuple[batch_pb2.Claim, ...] = ()) -> Gateway:
    """The same gateway with an empty journal: the chain from its first directive, then the welcome to incarnation 2."""
    new = Gateway("G1", "S1", at=old.at)
    new.journal.clear()
    new.state = type(new.state)(new.settings)
    new.policy = old.policy
    restart(new, b"2" * 16)
    hello(new, 2)
    sent = list(old.policy.sent)
    for each in sent if complete else sent[:4]:
        new.do(each)
    if complete:
        new.told(
            welcome=directive_pb2.Welcome(
                operator_id="op",
                site_id="S1",
                incarnation=2,
                receipt_keys=[b"key"],
                time_zone="Europe/Berlin",
                open_claims=open_claims,
            )
        )
        new.do(commands.HeadArrived(version=new.state.directive_version, at=new.at))
    return new


class AnyKey:
    def __init__(self, device: str) -> None:
        self.key_id = cose.key_id(device.encode())

    def verify(self, *_: object) -> bool:
        return True


def prove(gateway: Gateway, *, modulus: int = 10**9) -> batch_pb2.Batch:
    """Seal; show that the detail proves itself, and is the same again from the journal."""
    state = gateway.state
    facts = [facts_of_record(state, record) for record in state.unsealed]
    leaves = leaves_of(facts, sheet_of((f.account, f.currency, f.tariff, f.charges, f.at) for f in facts))
    durable = [event for event in gateway.journal if event.__class__ in KIND_OF]
    batch = gateway.seal()
    assert batch is not None
    starts = {position: bytes(gateway.state.start_id) for position in range(len(durable) + 1)}
    first, last = batch.first_position, batch.last_position
    again = leaves_of_entries(
        [Placed(position, durable[position - 1]) for position in range(first, last + 1)],
        gateway_id="G1",
        event_at=lambda position: durable[position - 1],
        start_id_at=lambda position: starts[position],
    )
    assert again == leaves
    detail.verify(
        batch,
        leaves,
        device_key=lambda device, _kid: AnyKey(device),
        tariff=lambda name, _version: parse(json.dumps(TARIFFS[name]).encode()),
        register=lambda *_: detail.RegisterFacts(unit="Wh", modulus=modulus),
        time_zone=state.time_zone,
    )
    return batch


def passage(site: Gateway) -> tuple[Intent, Grant]:
    site.told(device=Policy.device("x1", profile="one-shot", tariff_id="toll-1", unit="passage", rated_per_hour=3_600))
    intent = Meter("x1", 41, tariff="toll-1").intent(site, one_shot=1)
    return intent, site.grant_of(say(site, intent))
