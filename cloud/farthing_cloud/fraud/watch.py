"""Take what the ledger publishes, remember what devices signed, and open a case when two statements prove a clone."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from psycopg.rows import dict_row

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey
from farthing.device.messages import MessageError
from farthing.v1 import events_pb2, registry_pb2, registry_pb2_grpc
from farthing_cloud.database import sentence
from farthing_cloud.events.consumer import Connection, Event, PoisonEvent
from farthing_cloud.fraud.clone import Finding, Observation, StatementId, StatementRejected, examine, observe

KINDS = ("evidence.verified", "case.opened")

#: One proof is enough to act and a few are enough to look at; a clone in daily use makes one with every statement.
PROOFS_PER_CASE = 100
#: The intent of an authorization comes again with each of its records: verified once for as long as it is remembered here.
REMEMBERED_OBSERVATIONS = 4_096
#: Keys at hand; beyond it the registry is asked again.
REMEMBERED_KEYS = 100_000
#: A verification takes 0.1 ms of the one thread that all services share: others get their turn after so many.
VERIFICATIONS_AT_ONCE = 8
#: The registry's answer is one message; longer than this it is not there.
REGISTRY_TIMEOUT_S = 10.0

_FIND_STATEMENTS = sentence(__package__, "find_statements")
_FORGET_STATEMENTS = sentence(__package__, "forget_statements")
_KEEP_OVERLAP = sentence(__package__, "keep_overlap")
_KEEP_PROOF = sentence(__package__, "keep_proof")
_OPEN_CASE = sentence(__package__, "open_case")
_REMEMBER_STATEMENTS = sentence(__package__, "remember_statements")
_WANT_ACTION = sentence(__package__, "want_action")

_log = structlog.stdlib.get_logger(__name__)


class DeviceKeys:
    """The statement keys that the registry names, by operator, device and key id; keys seen before a rotation stay."""

    def __init__(self, registry: grpc.aio.Channel) -> None:
        self._registry = registry_pb2_grpc.RegistryStub(registry)
        self._keys: OrderedDict[tuple[str, str, bytes], VerifyingKey] = OrderedDict()

    def get(self, operator_id: str, device_id: str, key_id: bytes) -> VerifyingKey | None:
        """A key learned before, or None."""
        return self._keys.get((operator_id, device_id, key_id))

    async def learn(self, operator_id: str) -> None:
        """Ask the registry for the keys of an operator's devices; raise ``grpc.aio.AioRpcError`` where it is away."""
        answer = await self._registry.ListDevices(
            registry_pb2.ListDevicesRequest(operator_id=operator_id), timeout=REGISTRY_TIMEOUT_S
        )
        for device in answer.devices:
            try:
                key = VerifyingKey.from_spki(device.record.statement_key)
            except MessageError as err:
                _log.warning("device_key_unusable", device=device.record.device_id, why=str(err))
                continue
            self._keys[operator_id, device.record.device_id, key.key_id] = key
            if len(self._keys) > REMEMBERED_KEYS:
                self._keys.popitem(last=False)


class CloneWatch:
    """The handler of fraud's consumer."""

    def __init__(
        self,
        *,
        registry: grpc.aio.Channel,
        remembered_statements: int,
        now: Callable[[], Instant],
        acted: Callable[[], None],
    ) -> None:
        """``remembered_statements`` are kept per device; ``acted`` is told when an action may have become due."""
        self._keys = DeviceKeys(registry)
        self._remembered_statements = remembered_statements
        self._now = now
        self._acted = acted
        self._observations: OrderedDict[tuple[str, str, bytes], Observation] = OrderedDict()

    async def prepare(self, events: Sequence[Event]) -> None:
        """Verify the events' statements, with keys from the registry. Raises ``grpc.aio.AioRpcError`` where it is away."""
        learned: set[str] = set()
        verified = 0
        for event in events:
            if event.kind != "evidence.verified":
                continue
            evidence = _decode(events_pb2.EvidenceVerified, event)
            for cose in evidence.statements:
                if (evidence.operator_id, evidence.device_id, cose) in self._observations:
                    continue
                try:
                    self._observe(evidence, cose)
                except StatementRejected:
                    # Perhaps a key that is newer than what we know: asked for once per operator and batch.
                    if evidence.operator_id not in learned:
                        learned.add(evidence.operator_id)
                        await self._keys.learn(evidence.operator_id)
                verified += 1
                if verified % VERIFICATIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def handle(self, connection: Connection, events: Sequence[Event]) -> None:
        """Remember the statements of ``events``, keep what they prove, and ask for what must be done about it."""
        operators: dict[str, str] = {}
        observations: list[Observation] = []
        for event in events:
            if event.kind == "evidence.verified":
                evidence = _decode(events_pb2.EvidenceVerified, event)
                operators[evidence.device_id] = evidence.operator_id
                try:
                    observations += [self._observe(evidence, cose) for cose in evidence.statements]
                except StatementRejected as err:
                    raise PoisonEvent(str(err)) from err
            elif event.kind == "case.opened":
                await self._keep_overlap(connection, _decode(events_pb2.CaseOpened, event))
            else:
                raise PoisonEvent(f"fraud reads no {event.kind}")
        if observations:
            await self._remember(connection, observations)
            for finding in await self._examine(connection, observations):
                await self._open_case(connection, operators[finding.first.id.device_id], finding)

    def committed(self) -> None:
        """Wake who acts."""
        self._acted()

    def _observe(self, evidence: events_pb2.EvidenceVerified, cose: bytes) -> Observation:
        """The verified statement; raise ``StatementRejected``."""
        key = (evidence.operator_id, evidence.device_id, cose)
        known = self._observations.get(key)
        if known is not None:
            return known
        observation = observe(
            cose,
            evidence.device_id,
            lambda key_id: self._keys.get(evidence.operator_id, evidence.device_id, key_id),
        )
        self._observations[key] = observation
        if len(self._observations) > REMEMBERED_OBSERVATIONS:
            self._observations.popitem(last=False)
        return observation

    async def _remember(self, connection: Connection, observations: Sequence[Observation]) -> None:
        rows = await connection.execute(
            _REMEMBER_STATEMENTS,
            {
                **_names(observations),
                "payload_hashes": [observation.payload_hash for observation in observations],
                "gateway_ids": [observation.gateway_id for observation in observations],
                "coses": [observation.cose for observation in observations],
            },
        )
        for device_id, kept in await rows.fetchall():
            if kept > self._remembered_statements:
                await connection.execute(
                    _FORGET_STATEMENTS,
                    {"device_id": device_id, "excess": kept - self._remembered_statements},
                )

    async def _examine(self, connection: Connection, observations: Sequence[Observation]) -> list[Finding]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_FIND_STATEMENTS, _names(observations))
            known = {observation.id: observation for observation in map(_observation, await cursor.fetchall())}
        findings = (examine(observation, known.get(observation.id)) for observation in observations)
        return [finding for finding in findings if finding is not None]

    async def _open_case(self, connection: Connection, operator_id: str, finding: Finding) -> None:
        name = finding.first.id
        at_us = self._now()
        case = await connection.execute(
            _OPEN_CASE,
            {
                "operator_id": operator_id,
                "device_id": name.device_id,
                "device_epoch": name.device_epoch,
                "key_id": name.key_id,
                "at_us": at_us,
            },
        )
        row = await case.fetchone()
        assert row is not None
        case_id: int = row[0]
        kept = await connection.execute(
            _KEEP_PROOF,
            {
                "case_id": case_id,
                "proof_id": finding.proof_id,
                "device_epoch": name.device_epoch,
                "counter": name.counter,
                "first_cose": finding.first.cose,
                "first_gateway_id": finding.first.gateway_id,
                "second_cose": finding.second.cose,
                "second_gateway_id": finding.second.gateway_id,
                "limit": PROOFS_PER_CASE,
            },
        )
        if await kept.fetchone() != (True,):
            return
        _log.warning("clone_proven", device=name.device_id, counter=name.counter, case=case_id)
        await connection.execute(_WANT_ACTION, {"case_id": case_id, "at_us": at_us})

    async def _keep_overlap(self, connection: Connection, opened: events_pb2.CaseOpened) -> None:
        await connection.execute(
            _KEEP_OVERLAP,
            {
                "operator_id": opened.operator_id,
                "ledger_case_id": opened.case_id,
                "device_id": opened.device_id,
                "authorization_id": opened.authorization_id,
                "other_authorization_id": opened.other_authorization_id,
                "aside_micros": opened.aside_micros,
            },
        )


def _decode(message: Any, event: Event) -> Any:
    try:
        return message.FromString(event.value)
    except DecodeError as err:
        raise PoisonEvent(f"not a {message.DESCRIPTOR.name}") from err


def _names(observations: Iterable[Observation]) -> dict[str, Sequence[object]]:
    names = [observation.id for observation in observations]
    return {
        "device_ids": [name.device_id for name in names],
        "device_epochs": [name.device_epoch for name in names],
        "key_ids": [name.key_id for name in names],
        "counters": [name.counter for name in names],
    }


def _observation(row: dict[str, Any]) -> Observation:
    return Observation(
        id=StatementId(
            device_id=row["device_id"],
            device_epoch=row["device_epoch"],
            key_id=row["key_id"],
            counter=row["counter"],
        ),
        payload_hash=row["payload_hash"],
        gateway_id=row["gateway_id"],
        cose=row["cose"],
    )
