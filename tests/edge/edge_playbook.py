"""A gateway's pure core driven like a conversation: a back office that sends directives, devices that say statements.

Signatures are not asked here (ingress does), so a "COSE" is the payload with a mark before it.
"""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import End, Grant, Intent, Reading, RegisterValue, TariffVersion, encode
from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import Command, DeviceStatement, Reply
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.decision import Decision
from farthing_edge.authorization.events import Event, Sealed
from farthing_edge.authorization.state import CoreSettings, GatewayState

DAY = Instant(1_790_000_000 // 86_400 * 86_400 * SECOND_US)
M = 1_000_000


class FailingConnection:
    """A connection that fails where a transaction ends, at COMMIT or with a sentence that is one by itself, with one of SQLite's codes, ``times`` times."""

    def __init__(self, connection: sqlite3.Connection, code: int, times: int = 1) -> None:
        self.connection, self.code, self.times = connection, code, times

    def execute(self, sql: str, *arguments):
        ends = sql == "COMMIT" or (
            sql.startswith(("INSERT", "UPDATE", "DELETE")) and not self.connection.in_transaction
        )
        if ends and self.times:
            self.times -= 1
            err = sqlite3.OperationalError("it failed")
            err.sqlite_errorcode = self.code
            raise err
        return self.connection.execute(sql, *arguments)

    def __getattr__(self, name: str):
        return getattr(self.connection, name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task brings about; twenty seconds are a failure."""
    async with asyncio.timeout(20):
        while not condition():  # any condition of a running daemon, which has no event for each
            # The threads that bring it about need the processor: a loop that spins takes it from them.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.002):
                    await asyncio.Event().wait()


def clock(text: str) -> Instant:
    """ "10:05" of the example's day."""
    hours, minutes = text.split(":")
    return Instant(DAY + (int(hours) * 3600 + int(minutes) * 60) * SECOND_US)


def token_ref(token: str) -> bytes:
    return hashlib.sha256(b"ref" + token.encode()).digest()


def commitment(token: str) -> bytes:
    return hashlib.sha256(b"salt" + token.encode()).digest()


CHG_3 = {
    "id": "chg-3",
    "currency": "EUR",
    "elements": [
        {
            "price_components": [
                {"type": "FLAT", "price": 0.50, "vat": 20.0, "step_size": 1},
                {"type": "ENERGY", "price": 0.25, "vat": 20.0, "step_size": 100},
            ]
        }
    ],
}
TOLL_1 = {
    "id": "toll-1",
    "currency": "EUR",
    "tax_included": True,
    "elements": [{"price_components": [{"type": "UNIT", "price": 1.20, "vat": 7.0, "step_size": 1}]}],
}
PARK_1 = {
    "id": "park-1",
    "currency": "EUR",
    "elements": [{"price_components": [{"type": "TIME", "price": 3.60, "vat": 0.0, "step_size": 60}]}],
}
#: Energy at one tax rate, time at another.
MIX_1 = {
    "id": "mix-1",
    "currency": "EUR",
    "elements": [
        {
            "price_components": [
                {"type": "ENERGY", "price": 0.25, "vat": 20.0, "step_size": 1},
                {"type": "TIME", "price": 6.00, "vat": 7.0, "step_size": 1},
            ]
        }
    ],
}
#: Cheaper from noon on, by the wall clock of the site.
NOON_1 = {
    "id": "noon-1",
    "currency": "EUR",
    "elements": [
        {
            "price_components": [{"type": "ENERGY", "price": 0.30, "vat": 20.0, "step_size": 1}],
            "restrictions": {"end_time": "12:00"},
        },
        {"price_components": [{"type": "ENERGY", "price": 0.10, "vat": 20.0, "step_size": 1}]},
    ],
}
TARIFFS = {"chg-3": CHG_3, "toll-1": TOLL_1, "park-1": PARK_1, "mix-1": MIX_1, "noon-1": NOON_1}
PROFILES = {
    "session": directive_pb2.DEVICE_PROFILE_SESSION,
    "one-shot": directive_pb2.DEVICE_PROFILE_ONE_SHOT,
    "standing": directive_pb2.DEVICE_PROFILE_STANDING,
}


class Policy:
    """The chain of one gateway's directives, as bytes; who delivers them is up to the test."""

    def __init__(self, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self.version = 0
        self.hash = ZERO_HASH
        #: The whole chain, as a journal that begins anew reads it again.
        self.sent: list[commands.DirectiveArrived] = []

    def directive(self, at: Instant, **body: object) -> commands.DirectiveArrived:
        self.version += 1
        directive = directive_pb2.Directive(
            gateway_id=self.gateway_id,
            version=self.version,
            previous_hash=self.hash,
            dated_at_us=at,
            **body,
        )
        raw = directive.SerializeToString(deterministic=True)
        self.hash = batch_hash(raw)
        self.sent.append(commands.DirectiveArrived(body=directive, raw=raw, signature=bytes(64), key_id=bytes(8)))
        return self.sent[-1]

    @staticmethod
    def device(device_id: str, **changes: object) -> directive_pb2.DeviceRecord:
        register = directive_pb2.RegisterRecord(
            register_id=str(changes.pop("register_id", "r1")),
            register_epoch=int(changes.pop("register_epoch", 1)),
            unit=str(changes.pop("unit", "Wh")),
            modulus=int(changes.pop("modulus", 10**9)),
            rated_per_hour=int(changes.pop("rated_per_hour", 22_000)),
        )
        fields: dict[str, object] = {
            "status": directive_pb2.DEVICE_STATUS_ACTIVE,
            "device_epoch": 1,
            "profile": PROFILES[str(changes.pop("profile", "session"))],
            "statement_key": b"",
            "tariff_id": "chg-3",
            "tariff_version": 1,
            "report_interval_s": 720,
            "stoppable": True,
            **changes,
        }
        return directive_pb2.DeviceRecord(device_id=device_id, registers=[register], **fields)

    @staticmethod
    def account(account_id: str, **changes: object) -> directive_pb2.AccountRecord:
        fields: dict[str, object] = {
            "currency": "EUR",
            "status": directive_pb2.ACCOUNT_STATUS_ACTIVE,
            "preload_micros": 0,
            **changes,
        }
        return directive_pb2.AccountRecord(account_id=account_id, **fields)

    @staticmethod
    def token(token: str, account_id: str) -> directive_pb2.TokenRecord:
        return directive_pb2.TokenRecord(
            token_ref=token_ref(token), key_epoch=1, token_id=f"id-{token}", account_id=account_id
        )

    @staticmethod
    def tariff(tariff_id: str, version: int = 1) -> directive_pb2.TariffRecord:
        return directive_pb2.TariffRecord(
            tariff_id=tariff_id,
            version=version,
            currency=str(TARIFFS[tariff_id]["currency"]),
            ocpi_json=json.dumps(TARIFFS[tariff_id]).encode(),
        )

    @staticmethod
    def quota(
        quota_id: str, account_id: str, amount: int, spend_until: Instant, **changes: object
    ) -> directive_pb2.QuotaGranted:
        fields: dict[str, object] = {
            "currency": "EUR",
            "report_until_us": spend_until + 6 * 3600 * SECOND_US,
            "incarnation": 1,
            **changes,
        }
        return directive_pb2.QuotaGranted(
            quota_id=quota_id, account_id=account_id, amount_micros=amount, spend_until_us=spend_until, **fields
        )


@dataclass
class Gateway:
    """A core, its journal as a list, and the policy that reaches it."""

    gateway_id: str
    site_id: str
    at: Instant = field(default_factory=lambda: clock("09:00"))
    policy: Policy = field(init=False)
    state: GatewayState = field(init=False)
    journal: list[Event] = field(default_factory=list)
    last: Decision = field(default_factory=Decision)

    def __post_init__(self) -> None:
        self.policy = Policy(self.gateway_id)
        self.settings = CoreSettings(
            gateway_id=self.gateway_id, clock_epoch_us=DAY, clock_real_epoch_us=0, clock_rate=900
        )
        self.state = GatewayState(self.settings)
        self.do(
            commands.Started(
                start_id=bytes(16),
                boot_id="boot",
                clock_epoch_us=DAY,
                clock_real_epoch_us=0,
                clock_rate=900,
                synchronised=True,
            )
        )
        self.told(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id=self.site_id, incarnation=1, receipt_keys=[b"key"], time_zone="Europe/Berlin"
            )
        )
        self.do(commands.HeadArrived(version=self.policy.version, at=self.at))

    def do(self, command: Command) -> Decision:
        self.last = decide(self.state, command, now=self.at)
        for event in self.last.events:
            apply(self.state, event)
            self.journal.append(event)
        return self.last

    def told(self, **body: object) -> Decision:
        return self.do(self.policy.directive(self.at, **body))

    def say(self, statement: Intent | Reading | End, token: str | None = None, **changes: object) -> Reply | None:
        payload = encode(statement)
        command = DeviceStatement(
            statement=statement,
            cose=b"\x84" + payload,
            payload=payload,
            token_ref=None if token is None else token_ref(token),
            key_epoch=None if token is None else 1,
        )
        return self.do(replace(command, **changes)).reply

    def grant_of(self, reply: Reply | None) -> Grant:
        assert reply is not None
        assert reply.grant_of is not None
        grant = self.state.authorizations[reply.grant_of].grant(self.state.gateway_id)
        assert grant is not None
        return grant

    def seal(self) -> batch_pb2.Batch | None:
        self.do(commands.Tick())
        for event in self.do(commands.SealDue()).events:
            assert isinstance(event, Sealed)
            return batch_pb2.Batch.FromString(event.batch)
        return None

    def replayed(self) -> GatewayState:
        """A second state from the journal alone."""
        from farthing_edge.authorization.events import KIND_OF, decode
        from farthing_edge.authorization.events import encode as encode_event

        state = GatewayState(self.settings)
        for event in self.journal:
            if event.__class__ in KIND_OF:
                apply(state, decode(*encode_event(event)))
        return state


@dataclass
class Meter:
    """A device that counts up: its statements, addressed to one gateway at a time."""

    device_id: str
    value: int
    tariff: str = "chg-3"
    counter: int = 0
    epoch: int = 1
    register_id: str = "r1"
    register_epoch: int = 1
    token: str = "card"
    authorization: bytes | None = None

    def head(self, gateway: Gateway, value: int | None = None) -> dict[str, object]:
        self.counter += 1
        if value is not None:
            self.value = value
        return {
            "recipient": gateway.gateway_id,
            "device": self.device_id,
            "device_epoch": self.epoch,
            "counter": self.counter,
            "at": gateway.at,
            "register": RegisterValue(
                register_id=self.register_id, register_epoch=self.register_epoch, value=self.value
            ),
        }

    def intent(self, gateway: Gateway, **changes: object) -> Intent:
        fields = {**self.head(gateway), "commitment": commitment(self.token), "incarnation": 1, **changes}
        return Intent(**fields)

    def reading(self, gateway: Gateway, value: int, **changes: object) -> Reading:
        fields = {
            **self.head(gateway, value),
            "tariff": TariffVersion(tariff_id=self.tariff, version=1),
            "commitment": None if self.authorization is None else commitment(self.token),
            "authorization": self.authorization,
            **changes,
        }
        return Reading(**fields)

    def end(self, gateway: Gateway, value: int, **changes: object) -> End:
        fields = {
            **self.head(gateway, value),
            "tariff": TariffVersion(tariff_id=self.tariff, version=1),
            "commitment": commitment(self.token),
            "authorization": self.authorization,
            **changes,
        }
        return End(**fields)


def fund(gateway: Gateway, account: str, token: str, **account_fields: object) -> None:
    gateway.told(account=Policy.account(account, **account_fields))
    gateway.told(token=Policy.token(token, account))
