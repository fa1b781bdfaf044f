"""A day in which everything happens that a journal can hold: every kind of entry, every kind of directive, one seed.

``python varied_day.py FOLDER`` writes it as a journal of the format that this program writes, with the facts of the state behind it. That is
how the journals kept in ``journals/`` were made, each by the program of its time; they are never made again.
"""

import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge_playbook import Gateway, M, Meter, Policy, fund, token_ref

from farthing.clock import SECOND_US, Instant
from farthing.evidence.batches import batch_hash
from farthing.ids import authorization_id
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.events import KIND_OF, DirectiveApplied, Event, Sealed, Started
from farthing_edge.authorization.events import encode as encode_event
from farthing_edge.journal import Entry, Group, Journal
from farthing_edge.journal.schema import VERSION

DEVICES = 6
ROUNDS = 60


class VariedDay:
    """One gateway, played by a seed; ``gateway.journal`` is what happened."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.gateway = Gateway("G1", "S1")
        self.meters = [Meter(f"c{number}", 1_000 * number, token=f"card-{number % 3}") for number in range(DEVICES)]
        self.standing = Meter("m1", 5_000)
        self.toll = Meter("x1", 7, tariff="toll-1", token="card-1")
        self.turn = 0
        self.quotas = 0
        self.batches: list[bytes] = []
        self.told()

    def told(self) -> None:
        told = self.gateway.told
        told(
            site_key=directive_pb2.SiteKey(site_id="S1", epoch=1, ephemeral_public_key=b"e" * 65, wrapped_key=b"w" * 40)
        )
        told(seal=directive_pb2.SealPolicy(amount_micros=100 * M, records=100, age_s=2))
        told(
            floor=directive_pb2.FloorPolicy(
                currency="EUR", per_token_micros=3 * M, per_account_micros=5 * M, all_tokens_micros=20 * M
            )
        )
        for tariff in ("chg-3", "toll-1", "park-1"):
            told(tariff=Policy.tariff(tariff))
        for number in range(3):
            fund(self.gateway, f"P{number}", f"card-{number}", preload_micros=4 * M if number else 0)
        for meter in self.meters:
            told(device=Policy.device(meter.device_id, static_dh_x=b"x" * 32, static_dh_kid=b"kid-kid-"))
        told(
            device=Policy.device(
                "x1", profile="one-shot", unit="passage", rated_per_hour=3_600, tariff_id="toll-1", tariff_version=1
            )
        )
        told(device=Policy.device("m1", profile="standing", standing_account_id="P2", rated_per_hour=1_000))
        for number in range(3):
            self.grant(f"P{number}")
        # A directive that cannot be obeyed stays in the chain and is named.
        told(quota_granted=Policy.quota("q-odd", "nobody", M, Instant(self.gateway.at + 3_600 * SECOND_US)))

    def grant(self, account: str, **changes: object) -> None:
        self.quotas += 1
        until = Instant(self.gateway.at + 4 * 3_600 * SECOND_US)
        self.gateway.told(quota_granted=Policy.quota(f"q{self.quotas}", account, 9 * M, until, **changes))

    def pass_time(self, seconds: int) -> None:
        self.gateway.at = Instant(self.gateway.at + seconds * SECOND_US)
        self.gateway.do(commands.Tick())

    def play(self, rounds: int = ROUNDS) -> "VariedDay":
        """Everybody does something in every round."""
        for _ in range(rounds):
            self.pass_time(self.rng.randint(20, 200))
            for meter in self.meters:
                self.use(meter)
            self.rest(self.turn)
            self.turn += 1
        return self

    def use(self, meter: Meter) -> None:
        gateway, rng = self.gateway, self.rng
        if meter.authorization is None:
            reply = gateway.say(meter.intent(gateway), meter.token)
            meter.authorization = None if reply is None else reply.grant_of
            return
        authorization = gateway.state.authorizations.get(meter.authorization)
        value = meter.value + rng.randint(0, 300)
        if rng.random() < 0.3:
            gateway.say(meter.end(gateway, value))
            meter.authorization = None
        elif rng.random() < 0.1 and authorization is not None and meter.value > authorization.start + 500:
            # It goes back: parked.
            gateway.say(meter.reading(gateway, authorization.start - 1))
            meter.value = value
        else:
            gateway.say(meter.reading(gateway, value))

    def rest(self, turn: int) -> None:
        gateway, rng = self.gateway, self.rng
        if turn % 3 == 0:
            gateway.say(self.standing.reading(gateway, self.standing.value + rng.randint(1, 40)))
        if turn % 4 == 0:
            gateway.say(self.toll.intent(gateway, one_shot=rng.randint(1, 2)), "card-1")
        if turn % 7 == 2:
            # An end for an intent that never came.
            cancelled = Meter(self.meters[0].device_id, self.meters[0].value, counter=self.meters[0].counter + 2)
            cancelled.authorization = authorization_id(cancelled.device_id, 1, cancelled.counter, "G1")
            gateway.say(cancelled.end(gateway, cancelled.value, tariff=None))
            self.meters[0].counter = cancelled.counter
        if turn % 5 == 4:
            gateway.do(commands.UplinkChanged(online=turn % 2 == 0))
            for request in list(gateway.state.requests.values()):
                if rng.random() < 0.5:
                    nothing = gateway_sync_pb2.QUOTA_ANSWER_NOTHING_AVAILABLE
                    gateway.do(commands.QuotaAnswered(counter=request.counter, answer=nothing))
                else:
                    self.grant(request.account_id, request_counter=request.counter)
        if turn % 6 == 5:
            gateway.do(commands.HeadArrived(version=gateway.state.directive_version, at=gateway.at))
            batch = gateway.seal()
            if batch is not None:
                self.batches.append(batch.SerializeToString(deterministic=True))
        if turn % 12 == 11 and len(self.batches) > 2:
            sequence = len(self.batches) - 1
            receipt = batch_pb2.Receipt(
                gateway_id="G1", incarnation=1, sequence=sequence, batch_hash=batch_hash(self.batches[sequence - 1])
            )
            gateway.do(commands.ReceiptArrived(receipt=receipt, raw=receipt.SerializeToString()))
        if turn == 20:
            gateway.told(floor_resolved=directive_pb2.FloorResolved(account_id="P0", amount_micros=100_000))
            gateway.told(token_denied=directive_pb2.TokenDenied(token_ref=token_ref("card-2")))
        if turn == 25:
            gateway.told(token=Policy.token("card-2", "P2"))
        if turn == 40:
            quota = next(iter(gateway.state.quotas), None)
            if quota is not None:
                gateway.told(quota_recalled=directive_pb2.QuotaRecalled(quota_id=quota, reason="test"))
        if turn == 30:
            gateway.do(
                commands.Started(
                    start_id=b"s" * 16, boot_id="b2", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1
                )
            )

    def roll_back(self) -> None:
        """The cloud has seen more than there is."""
        hello = gateway_sync_pb2.HelloResponse(
            incarnation=1, witnessed_start_id=b"s" * 16, witnessed_position=self.gateway.state.position + 50
        )
        self.gateway.do(commands.Connected(hello=hello))

    def entries(self) -> Iterator[tuple[Event, Entry]]:
        """What is durable of it, as the engine would write it."""
        durable = (event for event in self.gateway.journal if event.__class__ in KIND_OF)
        for position, event in enumerate(durable, start=1):
            yield event, Entry(position, self.gateway.at, *encode_event(event))

    def write(self, journal: Journal, *, group_size: int = 7, after: int = 0, until: int | None = None) -> None:
        """Commit what came ``after`` a position, ``until`` another, in groups; every batch but the last is signed, one command is parked."""
        group = Group()
        signed = []
        for event, entry in self.entries():
            if entry.position <= after or (until is not None and entry.position > until):
                continue
            group.entries.append(entry)
            if isinstance(event, Sealed):
                group.batches.append((event.incarnation, event.sequence, entry.position, event.batch_hash))
                signed.append(event.sequence)
            elif isinstance(event, Started):
                group.starts.append((entry.position, event.start_id, 1))
            elif isinstance(event, DirectiveApplied):
                group.directives.append((event.version, entry.position, batch_hash(event.raw)))
                body = directive_pb2.Directive.FromString(event.raw)
                if body.WhichOneof("body") == "device":
                    group.devices.append((body.device.device_id, entry.position, body.device.status))
            if len(group.entries) >= group_size:
                journal.commit(group)
                group = Group()
        journal.commit(group)
        for sequence in signed[:-1]:
            journal.commit(Group(signatures=[(bytes([sequence]) * 64, b"kid-kid-", 1, sequence)]))
        journal.park(self.gateway.at, "DeviceStatement", b"odd", "KeyError: a bug")


def facts(value: object, *, seen: tuple[int, ...] = ()) -> object:
    """``value`` as JSON, whatever it is made of: attributes by name, bytes in hex. Reads what is there, knows no class."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if id(value) in seen:
        return "(above)"
    inside = (*seen, id(value))
    if isinstance(value, dict):
        return {json.dumps(facts(key)): facts(each, seen=inside) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(facts(each, seen=inside)) for each in value)
    if hasattr(value, "_asdict"):
        return {name: facts(each, seen=inside) for name, each in value._asdict().items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "deque":
        return [facts(each, seen=inside) for each in value]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())] or list(vars(value))
    return {name: facts(getattr(value, name), seen=inside) for name in names if not name.startswith("_")}


def facts_of(state: object) -> dict[str, object]:
    """The facts of a gateway's state; what is compiled from an operator's text or configured is none."""
    found = facts(state)
    assert isinstance(found, dict)
    found.pop("settings")
    for entry in found["tariffs"].values():
        entry.pop("tariff")
    return found


def main(folder: Path) -> None:
    """Write ``format-N.sqlite.xz`` and ``format-N.json.xz``."""
    day = VariedDay().play()
    day.roll_back()
    path = folder / f"format-{VERSION}.sqlite"
    journal = Journal(path, mark_directory=folder, keep_ballast=False)
    journal.open()
    day.write(journal)
    journal.close()
    path.with_suffix(".sqlite.xz").write_bytes(lzma.compress(path.read_bytes()))
    path.with_suffix(".json.xz").write_bytes(
        lzma.compress(json.dumps(facts_of(day.gateway.replayed()), indent=0).encode())
    )
    for leftover in (path, path.with_name(path.name + ".lock")):
        leftover.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
