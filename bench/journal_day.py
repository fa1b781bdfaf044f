"""A site's ordinary days as a journal: the real core decides, the real journal writes; only the wire and the keys are left out.

Chargers in sessions, a reading each minute, sealed and receipted as in the field. Signatures are random bytes of the right length: nothing here
verifies them, and to a disk they are the same.
"""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from bench.edge import TARIFF
from farthing.clock import SECOND_US, Instant
from farthing.device.cose import encode_sign1
from farthing.device.messages import End, Intent, Reading, RegisterValue, Statement, TariffVersion, encode
from farthing.evidence.batches import ZERO_HASH, batch_hash
from farthing.ids import AuthorizationId, DeviceId, GatewayId, RegisterId, TariffId, TokenRef, authorization_id
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.authorization.deciding import decide
from farthing_edge.authorization.events import KIND_OF, DirectiveApplied, Sealed, Started
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.journal import Entry, Group, Journal
from farthing_edge.journal.store import GENESIS, checked_entries

#: As the default policy of an operator.
SEAL_RECORDS: Final = 200
READ_EVERY_S: Final = 60
#: Of a session; then another payer comes.
READINGS: Final = 30
STEP_WH: Final = 180
GATEWAY: Final = GatewayId("gw-bench")
_START = Instant(1_790_000_000 * SECOND_US)
_TARIFF = TariffVersion(tariff_id=TariffId("chg-3"), version=1)


class _Charger:
    def __init__(self, number: int, rng: random.Random) -> None:
        self.device = DeviceId(f"charger-{number:04}")
        self.token = TokenRef(rng.randbytes(32))
        self.account = f"payer-{number:04}"
        self._rng = rng
        self._key_id = rng.randbytes(8)
        self._counter = 0
        self._value = rng.randrange(10_000_000)
        self._left = 0
        self._commitment = b""
        self._authorization = AuthorizationId(b"")

    def next(self, at: Instant) -> DeviceStatement:
        """An intent, readings, an end, and again."""
        self._counter += 1
        statement: Statement
        token: TokenRef | None = None
        if self._left:
            self._value += STEP_WH + self._rng.randrange(9)
            self._left -= 1
            said: dict[str, Any] = self._head(at) | {"authorization": self._authorization, "tariff": _TARIFF}
            statement = Reading(**said) if self._left else End(**said)
        else:
            self._commitment = self._rng.randbytes(32)
            self._authorization = authorization_id(self.device, 1, self._counter, GATEWAY)
            statement = Intent(**self._head(at), incarnation=1)
            self._left, token = READINGS, self.token
        payload = encode(statement)
        return DeviceStatement(
            statement=statement,
            cose=encode_sign1(self._key_id, payload, self._rng.randbytes(64)),
            payload=payload,
            token_ref=token,
            key_epoch=1 if token else None,
        )

    def _head(self, at: Instant) -> dict[str, Any]:
        return {
            "recipient": GATEWAY,
            "device": self.device,
            "device_epoch": 1,
            "counter": self._counter,
            "at": Instant(at + self._rng.randrange(SECOND_US)),
            "register": RegisterValue(register_id=RegisterId("r1"), register_epoch=1, value=self._value),
            "commitment": self._commitment,
        }

    def directives(self) -> Iterator[directive_pb2.Directive]:
        yield directive_pb2.Directive(
            account=directive_pb2.AccountRecord(
                account_id=self.account, currency="EUR", status=directive_pb2.ACCOUNT_STATUS_ACTIVE
            )
        )
        yield directive_pb2.Directive(
            token=directive_pb2.TokenRecord(
                token_ref=self.token, key_epoch=1, token_id=f"t-{self.account}", account_id=self.account
            )
        )
        yield directive_pb2.Directive(
            device=directive_pb2.DeviceRecord(
                device_id=self.device,
                status=directive_pb2.DEVICE_STATUS_ACTIVE,
                device_epoch=1,
                profile=directive_pb2.DEVICE_PROFILE_SESSION,
                registers=[
                    directive_pb2.RegisterRecord(
                        register_id="r1", register_epoch=1, unit="Wh", modulus=2**40, rated_per_hour=22_000
                    )
                ],
                tariff_id="chg-3",
                tariff_version=1,
                report_interval_s=720,
                stoppable=True,
            )
        )
        yield directive_pb2.Directive(
            quota_granted=directive_pb2.QuotaGranted(
                quota_id=f"q-{self.account}",
                account_id=self.account,
                currency="EUR",
                amount_micros=10**12,
                spend_until_us=2**62,
                incarnation=1,
            )
        )


class JournalDay:
    """Writes usage records into ``journal``, ``group`` commands in a commit, with a journal that has been opened and is empty."""

    def __init__(self, journal: Journal, *, chargers: int, group: int, seed: int = 1) -> None:
        rng = random.Random(seed)
        self._journal = journal
        self._group_size = group
        self._chargers = [_Charger(number, rng) for number in range(chargers)]
        self._rng = rng
        self.settings = CoreSettings(gateway_id=GATEWAY, clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1)
        self._state = GatewayState(self.settings)
        self._group, self._waiting = Group(), 0
        self._at = _START
        self._turn = 0
        #: Usage records so far, and the bytes of the signed statements that they stand on.
        self.records = 0
        self.statement_bytes = 0
        self._open()

    def _open(self) -> None:
        self._do(
            commands.Started(start_id=bytes(16), boot_id="", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1)
        )
        previous = ZERO_HASH
        for version, directive in enumerate(self._directives(), start=1):
            directive.MergeFrom(
                directive_pb2.Directive(
                    gateway_id=GATEWAY, version=version, previous_hash=previous, dated_at_us=self._at
                )
            )
            raw = directive.SerializeToString(deterministic=True)
            previous = batch_hash(raw)
            self._do(
                commands.DirectiveArrived(
                    body=directive, raw=raw, signature=self._rng.randbytes(64), key_id=self._rng.randbytes(8)
                )
            )
        self._do(commands.HeadArrived(version=self._state.directive_version, at=self._at))
        self._commit()

    def _directives(self) -> Iterator[directive_pb2.Directive]:
        yield directive_pb2.Directive(
            welcome=directive_pb2.Welcome(operator_id="op", site_id="S1", incarnation=1, time_zone="UTC")
        )
        yield directive_pb2.Directive(
            tariff=directive_pb2.TariffRecord(
                tariff_id="chg-3", version=1, currency="EUR", ocpi_json=json.dumps(TARIFF).encode()
            )
        )
        for charger in self._chargers:
            yield from charger.directives()
        yield directive_pb2.Directive(
            seal=directive_pb2.SealPolicy(amount_micros=10**9, records=SEAL_RECORDS, age_s=60)
        )

    @property
    def state(self) -> GatewayState:
        """What the journal says."""
        return self._state

    def write(self, *, records: int = 0, entries: int = 0) -> None:
        """Go on until so many more usage records were made, or the journal has so many entries in all."""
        until = self.records + records
        while (records and self.records < until) or self._state.position < entries:
            charger = self._chargers[self._turn % len(self._chargers)]
            self._turn += 1
            if self._turn % len(self._chargers) == 0:
                self._at = Instant(self._at + READ_EVERY_S * SECOND_US)
            said = charger.next(self._at)
            before = len(self._state.unsealed)
            self._do(said)
            made = len(self._state.unsealed) - before
            self.records += made
            self.statement_bytes += len(said.cose) if made else 0
            if len(self._state.unsealed) >= SEAL_RECORDS:
                self._seal()
            if self._waiting >= self._group_size:
                self._commit()
        self._commit()

    def repeat(self, *, entries: int) -> None:
        """Fill the journal up to so many entries with what it has so far, again and again: real bodies and a real chain, some hundred times faster
        than deciding. Only what a snapshot covers may be repeated: it replays to nothing. What is written after it goes on as if it had happened.
        """
        journal, state = self._journal, self._state
        told = 4 * len(self._chargers) + 16
        with closing(journal.reader()) as connection:
            real = [
                each
                for each, _ in checked_entries(connection, 0, GENESIS, journal.position)
                if each.position > told and each.kind not in (KIND_OF[Started], KIND_OF[DirectiveApplied])
            ]
        while journal.position < entries:
            first = journal.position + 1
            some = real[: entries - journal.position]
            journal.commit(Group(entries=[each._replace(position=first + number) for number, each in enumerate(some)]))
        state.position = journal.position

    def _seal(self) -> None:
        """A batch, its signature and its receipt."""
        self._do(commands.SealDue())
        batch = self._group.batches[-1]
        self._commit()
        self._journal.commit(Group(signatures=[(self._rng.randbytes(64), b"key-key-", batch[0], batch[1])]))
        receipt = batch_pb2.Receipt(
            ledger_epoch=1,
            gateway_id=GATEWAY,
            incarnation=batch[0],
            sequence=batch[1],
            batch_hash=batch[3],
            posted_at_us=self._at,
        )
        self._do(commands.ReceiptArrived(receipt=receipt, raw=receipt.SerializeToString()))

    def _do(self, command: Command) -> None:
        state, group = self._state, self._group
        self._waiting += 1
        decision = decide(state, command, now=self._at)
        assert decision.reply is None or decision.reply.refusal is None, decision.reply
        for event in decision.events:
            apply(state, event)
            if event.__class__ not in KIND_OF:
                continue
            group.entries.append(Entry(state.position, self._at, *encode_event(event)))
            if isinstance(event, Sealed):
                group.batches.append((event.incarnation, event.sequence, state.position, event.batch_hash))
            elif isinstance(event, Started):
                group.starts.append((state.position, event.start_id, state.incarnation))
            elif isinstance(event, DirectiveApplied):
                group.directives.append((event.version, state.position, state.directive_hash))
                if isinstance(command, commands.DirectiveArrived) and command.body.WhichOneof("body") == "device":
                    device = command.body.device
                    group.devices.append((device.device_id, state.position, device.status))

    def _commit(self) -> None:
        if self._group.entries:
            self._journal.commit(self._group)
        self._group, self._waiting = Group(), 0
