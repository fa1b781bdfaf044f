"""The gateways' door: batches in, receipts and directives out.

Rule 1: the caller is the gateway that its certificate names; a message that names another one is refused.
Rule 2: signature first, then parsing, then the chain, then money; what fails changes nothing and says why.
Rule 3: a receipt leaves after the commit (P2), and a batch that comes again gets the same bytes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from typing_extensions import override

from farthing.clock import BusinessClock
from farthing.device.cose import VerifyingKey
from farthing.evidence.batches import BATCH_RECIPIENT, DetailError, decompress_leaves
from farthing.evidence.detail import EvidenceError, VerifiedLeaf, verify
from farthing.ids import START_ID_SIZE, AccountId, AuthorizationId, GatewayId, parse_bytes, parse_id
from farthing.money import parse_amount_micros, parse_currency
from farthing.v1 import batch_pb2, directive_pb2, events_pb2, gateway_sync_pb2, gateway_sync_pb2_grpc
from farthing_cloud.callers import Caller
from farthing_cloud.ledger import metrics
from farthing_cloud.ledger.ahead import ahead, gathered
from farthing_cloud.ledger.batch_keys import BatchKeys, is_by_present_key, must_be_good
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.continuing import broken
from farthing_cloud.ledger.core import restoring
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.incarnations import Standing
from farthing_cloud.ledger.core.keys import Standing as KeyStanding
from farthing_cloud.ledger.core.posting import Event
from farthing_cloud.ledger.core.quotas import QuotaRequest
from farthing_cloud.ledger.core.received import MAX_BATCH_SIZE, BatchError, ReceivedBatch, receive
from farthing_cloud.ledger.core.rows import Gateway, GatewayCaseKind
from farthing_cloud.ledger.facts import Facts, GatewayFacts
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.refusals import Context, Refused, malformed, refusals
from farthing_cloud.ledger.showing import Witnesses, links_of
from farthing_cloud.ledger.signing import LOOK_AGAIN_MS, Signatures
from farthing_cloud.ledger.store.interface import Detail, ReceiptContent, StoredDirective
from farthing_cloud.ledger.together import BatchOutcome

#: Directives read for one gateway at once.
DIRECTIVES_AT_ONCE: Final = 64
#: Batches of earlier incarnations whose detail is asked for in one session.
MOST_EARLIER_DETAIL: Final = 100
#: Characters of why a gateway has no detail any more, in a case.
MAX_GONE: Final = 200
#: Batches that wait are read and posted together, up to this many bytes: four of a thousand lines, dozens of an ordinary size. More
#: would gain little, hold their rows longer, and cost memory for every stream.
TOGETHER_BYTES: Final = 512 * 1024
#: What a message that waits weighs beside what stands in it, bytes: many that say nothing are memory too.
MESSAGE_WEIGHT: Final = 1_024
#: A counter or position of a gateway: more cannot be stored, and none is reached by counting.
MAX_COUNT: Final = 2**63 - 1

_log = structlog.stdlib.get_logger(__name__)

_CHAIN_CODES: Final = {
    # The gateway can help itself: send what is missing first.
    ChainStep.GAP: grpc.StatusCode.OUT_OF_RANGE,
    # Only people can: another batch stands at its place.
    ChainStep.FORK: grpc.StatusCode.ALREADY_EXISTS,
    # This ledger never began it. (A batch of an earlier incarnation is none of these: it is posted.)
    ChainStep.UNKNOWN_INCARNATION: grpc.StatusCode.FAILED_PRECONDITION,
}


_STANDINGS: Final = {
    Standing.AGREED: gateway_sync_pb2.HELLO_STANDING_AGREED,
    Standing.BEGIN: gateway_sync_pb2.HELLO_STANDING_BEGIN,
    Standing.WAITS: gateway_sync_pb2.HELLO_STANDING_WAITS,
    Standing.REWIND: gateway_sync_pb2.HELLO_STANDING_REWIND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """Batches that came together and were verified, and why the one after them was refused."""

    gateway: Gateway
    batches: list[ReceivedBatch]
    refused: Exception | None


#: What became of them, in order, and what ended it.
_Outcomes: TypeAlias = tuple[list[tuple[ChainStep, ReceiptContent]], Exception | None]


class GatewaySyncServicer(gateway_sync_pb2_grpc.GatewaySyncServicer):
    """See ``gateway_sync.proto``."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        signatures: Signatures,
        clock: BusinessClock,
        caller: Callable[[Any], Caller],
        events: Bell,
        head_interval_s: int,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._signatures = signatures
        self._clock = clock
        self._caller = caller
        self._events = events
        self._head_interval_s = head_interval_s
        self._facts = Facts(ledger.store)
        self._keys = BatchKeys(ledger.store)
        self._witnesses = Witnesses(signatures.keys)

    async def _gateway(self, context: Context) -> Gateway:
        """The gateway that calls; raise ``Refused`` for everybody else."""
        who = self._caller(context)
        if who.kind != "gateway":
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "only gateways use this door")
        gateway = await self._store.gateway(GatewayId(who.id))
        if gateway is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"the ledger does not know gateway {who.id}: create it first")
        # The registry lets nobody in who is revoked. Its row can be changed back unseen; that it happened stands in the audit chain.
        if await self._store.revoked(gateway.gateway_id):
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"gateway {who.id} is revoked, for ever")
        return gateway

    # --- hello --------------------------------------------------------------------------------------------------------

    @override
    async def Hello(self, request: gateway_sync_pb2.HelloRequest, context: Context) -> gateway_sync_pb2.HelloResponse:
        """Agree on incarnation and positions."""
        async with refusals(context):
            gateway = await self._gateway(context)
            proof = self._witnesses.proof(gateway.gateway_id, request)
            parse_bytes(request.start_id, START_ID_SIZE)
            if max(request.position, request.incarnation, request.last_sealed_sequence) > MAX_COUNT:
                raise malformed("a position, incarnation or sequence above 2^63 - 1")
            greeting = await self._ledger.hello(
                gateway.gateway_id,
                incarnation=request.incarnation,
                start_id=request.start_id,
                position=request.position,
                sealed_sequence=request.last_sealed_sequence,
                suspects_rollback=request.suspects_rollback,
                salvaged=request.salvaged,
                directive_version=request.directive_version,
                proof=proof,
                now=self._clock.now(),
            )
            metrics.HELLOS.labels(greeting.standing.value).inc()
            if greeting.standing is Standing.WAITS:
                self._events.ring()
                _log.warning(
                    "a gateway waits for a new incarnation",
                    gateway=gateway.gateway_id,
                    incarnation=greeting.gateway.incarnation,
                    why=greeting.why,
                )
                if not request.hears_standing:
                    # It would go on as if all were well.
                    raise Refused(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"{greeting.why}. A new incarnation needs two persons' approval",
                    )
            epoch = await self._store.epoch()
            unproven = (
                await self._store.unproven_before(gateway.gateway_id, greeting.gateway.incarnation, MOST_EARLIER_DETAIL)
                if greeting.standing is Standing.AGREED
                else ()
            )
        return gateway_sync_pb2.HelloResponse(
            incarnation=greeting.gateway.incarnation,
            ledger_epoch=epoch.number,
            posted_sequence=greeting.chain.sequence,
            proven_sequence=greeting.chain.proven_sequence,
            witnessed_start_id=greeting.gateway.witness_start_id,
            witnessed_position=greeting.gateway.witness_position,
            standing=_STANDINGS[greeting.standing],
            waits_because=greeting.why,
            earlier=[
                gateway_sync_pb2.PostedChain(incarnation=chain.incarnation, posted_sequence=chain.sequence)
                for chain in greeting.earlier or ()
            ],
            wants_batches=greeting.earlier is not None,
            wants_detail=[
                gateway_sync_pb2.UnprovenBatch(incarnation=incarnation, sequence=sequence)
                for incarnation, sequence in unproven
            ],
        )

    # --- a restored ledger --------------------------------------------------------------------------------------------

    @override
    async def ShowDirectives(
        self, request_iterator: AsyncIterator[gateway_sync_pb2.ShowDirectivesRequest], context: Context
    ) -> AsyncIterator[gateway_sync_pb2.ShowDirectivesResponse]:
        """Find the fork, take back what follows it."""
        async with refusals(context):
            gateway = await self._gateway(context)
            first = await anext(request_iterator, None)
            if first is None:
                raise malformed("a showing begins with links")
            receipt = self._witnesses.receipted(gateway.gateway_id, first)
            fork = await self._ledger.restored.common(gateway.gateway_id, links_of(first))
            yield gateway_sync_pb2.ShowDirectivesResponse(after_version=fork.version)
            shown = await self._witnesses.shown(gateway.gateway_id, request_iterator)
            back = await self._ledger.restored.take_back(gateway, fork, shown, receipt, now=self._clock.now())
            self._events.ring()
            self._signatures.wanted.ring()
            _log.warning(
                "a gateway has shown what it was told",
                gateway=gateway.gateway_id,
                directives=back.directives,
                quotas=back.quotas,
                reinstated_micros=back.reinstated_micros,
            )
            yield gateway_sync_pb2.ShowDirectivesResponse(
                after_version=fork.version,
                directive_version=back.directive_version,
                directives=back.directives,
                quotas=back.quotas,
            )

    # --- batches ------------------------------------------------------------------------------------------------------

    @override
    async def PushBatches(
        self, request_iterator: AsyncIterator[batch_pb2.SignedBatch], context: Context
    ) -> AsyncIterator[batch_pb2.SignedReceipt]:
        """Post batches in order; a receipt for each.

        What waits is posted together. Meanwhile what has come since is verified, and the receipts of those before are signed: the
        database works while we do.
        """

        async def read(together: list[batch_pb2.SignedBatch]) -> _Read:
            gateway = await self._gateway(context)
            batches: list[ReceivedBatch] = []
            for signed in together:
                try:
                    key = await self._keys.named(gateway, signed.key_id)
                    # Thousands of lines: not on the event loop.
                    batch = await asyncio.to_thread(_verified, gateway, signed, key)
                    if batch.directive_version > gateway.directive_version:
                        # Directives may have been written since this row was read.
                        gateway = await self._gateway(context)
                    restoring.must_know_what_it_rests_on(gateway, batch.directive_version)
                except (Refused, restoring.LedgerRestoring) as err:
                    metrics.BATCHES.labels("refused").inc()
                    return _Read(gateway=gateway, batches=batches, refused=err)
                batches.append(batch)
            return _Read(gateway=gateway, batches=batches, refused=None)

        async with (
            refusals(context),
            aclosing(gathered(request_iterator, weight_of, TOGETHER_BYTES)) as waiting,
            aclosing(ahead(waiting, read)) as received,
            aclosing(ahead(received, self._post)) as posted,
            aclosing(ahead(posted, self._receipts)) as receipted,
        ):
            async for receipts, refused in receipted:
                for receipt in receipts:
                    yield receipt
                if refused is not None:
                    raise refused

    async def _post(self, read: _Read) -> _Outcomes:
        """Post what was read, together as far as that goes; what cannot be posted ends it, after those before it."""
        posted: list[tuple[ChainStep, ReceiptContent]] = []
        try:
            began = time.monotonic()
            # What a key that is not the present one is worth depends on the batch before it, once that is posted.
            present = list(takewhile(partial(is_by_present_key, read.gateway), read.batches))
            together = await self._ledger.post_batches(present, currency=read.gateway.currency, now=self._clock.now())
            for batch, outcome in zip(present, together, strict=False):
                posted.append(self._posted(read.gateway, batch, outcome))
                metrics.POSTING_SECONDS.observe((time.monotonic() - began) / len(together))
            for batch in read.batches[len(together) :]:
                await self._judge(read.gateway, batch)
                alone = await self._post_alone(read.gateway, batch)
                posted.append(alone)
        except Exception as err:
            if not posted:
                raise
            # Those before it are posted: their receipts leave first.
            return posted, err
        return posted, read.refused

    async def _judge(self, gateway: Gateway, batch: ReceivedBatch) -> None:
        try:
            await self._keys.must_hold(gateway, batch)
        except Refused:
            metrics.BATCHES.labels("refused").inc()
            raise

    async def _post_alone(self, gateway: Gateway, batch: ReceivedBatch) -> tuple[ChainStep, ReceiptContent]:
        began = time.monotonic()
        outcome = await self._ledger.post_batch(batch, currency=gateway.currency, now=self._clock.now())
        posted = self._posted(gateway, batch, outcome)
        if outcome.step is not ChainStep.REPLAY:
            metrics.POSTING_SECONDS.observe(time.monotonic() - began)
        return posted

    def _posted(
        self, gateway: Gateway, batch: ReceivedBatch, outcome: BatchOutcome
    ) -> tuple[ChainStep, ReceiptContent]:
        metrics.BATCHES.labels(outcome.step.value).inc()
        if outcome.step is ChainStep.FORK:
            self._events.ring()
            self._signatures.wanted.ring()
        if batch.carried:
            self._signatures.wanted.ring()
        if batch.parked_count and outcome.step is ChainStep.NEXT:
            metrics.PARKED_STATEMENTS.inc(batch.parked_count)
            _log.warning(
                "a gateway could not take what devices have signed: people decide about it",
                gateway=gateway.gateway_id,
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                statements=batch.parked_count,
            )
        if outcome.receipt is None:
            _log.warning(
                "a batch does not fit its chain",
                gateway=gateway.gateway_id,
                step=outcome.step.value,
                incarnation=batch.incarnation,
                sequence=batch.sequence,
            )
            raise Refused(
                _CHAIN_CODES[outcome.step],
                f"{outcome.step.value}: batch {batch.sequence} of incarnation {batch.incarnation};"
                f" the next one here is {outcome.expected}",
            )
        if outcome.step is not ChainStep.REPLAY:
            self._events.ring()
            metrics.LINES.inc(len(batch.lines))
            metrics.LINES_PARKED.inc(len(outcome.receipt.parked))
        return outcome.step, outcome.receipt

    async def _receipts(self, outcomes: _Outcomes) -> tuple[list[batch_pb2.SignedReceipt], Exception | None]:
        """The receipts of what was posted, in order; those of new ones are kept together."""
        posted, refused = outcomes
        new = [content for step, content in posted if step is not ChainStep.REPLAY]
        signed = iter(await self._signatures.first_receipts(new) if new else ())
        return [
            await self._signatures.receipt(content) if step is ChainStep.REPLAY else next(signed)
            for step, content in posted
        ], refused

    # --- directives ---------------------------------------------------------------------------------------------------

    @override
    async def FollowDirectives(
        self, request: gateway_sync_pb2.FollowDirectivesRequest, context: Context
    ) -> AsyncIterator[gateway_sync_pb2.FollowDirectivesResponse]:
        """Signed directives, gapless, and dated heads in between."""
        async with refusals(context):
            gateway = await self._gateway(context)
            restoring.must_have_shown((gateway,), await self._store.epoch())
            version, body_hash = await self._start_of(gateway, request.after_version)
            head_due = 0.0
            while True:
                seen = self._signatures.signed.rung
                rows = await self._store.directives(gateway.gateway_id, version, DIRECTIVES_AT_ONCE)
                for row in _signed_front(rows):
                    version, body_hash = row.version, row.body_hash
                    yield gateway_sync_pb2.FollowDirectivesResponse(
                        directive=directive_pb2.SignedDirective(
                            directive=row.body, signature=row.signature, key_id=row.key_id
                        )
                    )
                    head_due = 0.0  # a chain that grew has a new head
                if rows and version == rows[-1].version:
                    continue
                now = time.monotonic()
                # A head says where the chain ends: not while a link waits for its signature.
                if not rows and version and now >= head_due:
                    # Stopped since: then this may not be where the chain ends.
                    restoring.must_have_shown((), await self._store.epoch())
                    head = await self._signatures.head(
                        gateway.gateway_id, version=version, body_hash=body_hash, at=self._clock.now()
                    )
                    yield gateway_sync_pb2.FollowDirectivesResponse(head=head)
                    head_due = now + self._head_interval_s
                    # The stream stands: the gateway is not silent, though it may have nothing to say.
                    await self._store.contact(gateway.gateway_id, now=self._clock.now())
                await self._signatures.signed.wait(seen, milliseconds=LOOK_AGAIN_MS)

    async def _start_of(self, gateway: Gateway, after_version: int) -> tuple[int, bytes]:
        if after_version > gateway.directive_version:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the chain of {gateway.gateway_id} ends at {gateway.directive_version}, not {after_version}:"
                " the ledger was restored, or the gateway belongs elsewhere",
            )
        if after_version == 0:
            return 0, b""
        (last,) = await self._store.directives(gateway.gateway_id, after_version - 1, 1)
        return last.version, last.body_hash

    # --- quotas -------------------------------------------------------------------------------------------------------

    @override
    async def RequestQuota(
        self, request: gateway_sync_pb2.RequestQuotaRequest, context: Context
    ) -> gateway_sync_pb2.RequestQuotaResponse:
        """Grant, or say why not; the quota itself travels as a directive."""
        async with refusals(context):
            gateway = await self._gateway(context)
            if parse_currency(request.currency) != gateway.currency:
                raise malformed(f"{gateway.gateway_id} works in {gateway.currency}")
            if request.wanted_micros < 1:
                raise malformed("a quota is more than 0")
            if not 1 <= request.counter <= MAX_COUNT or request.incarnation > MAX_COUNT:
                raise malformed("counters and incarnations are 1 to 2^63 - 1")
            wish = QuotaRequest(
                operator_id=gateway.operator_id,
                gateway_id=gateway.gateway_id,
                incarnation=request.incarnation,
                counter=request.counter,
                account_id=AccountId(parse_id(request.account_id)),
                currency=gateway.currency,
                wanted_micros=parse_amount_micros(request.wanted_micros),
            )
            answer = await self._ledger.request_quota(wish, now=self._clock.now())
        if answer.quota_id:
            self._signatures.wanted.ring()
        elif answer.answer == gateway_sync_pb2.QUOTA_ANSWER_INCARNATION_DIFFERS:
            # Its counter may have shown two stories: a case, and a directive.
            self._events.ring()
            self._signatures.wanted.ring()
        name = gateway_sync_pb2.QuotaAnswer.Name(answer.answer)  # type: ignore[arg-type]  # a stored number of the enum
        metrics.QUOTA_ANSWERS.labels(name.removeprefix("QUOTA_ANSWER_").lower()).inc()
        return gateway_sync_pb2.RequestQuotaResponse(
            answer=gateway_sync_pb2.QuotaAnswer.Value(name),
            quota_id=answer.quota_id,
            amount_micros=answer.amount_micros,
        )

    # --- evidence -----------------------------------------------------------------------------------------------------

    @override
    async def UploadEvidence(
        self, request_iterator: AsyncIterator[gateway_sync_pb2.UploadEvidenceRequest], context: Context
    ) -> AsyncIterator[gateway_sync_pb2.UploadEvidenceResponse]:
        """Check the detail of posted batches leaf by leaf; say which rule fails where.

        While one is marked as proven, the next one's signatures are verified.
        """
        async with refusals(context):
            gateway = await self._gateway(context)

            async def read(request: gateway_sync_pb2.UploadEvidenceRequest) -> _Detail:
                return await self._read_detail(gateway, request)

            async with aclosing(ahead(request_iterator, read)) as details:
                async for detail in details:
                    yield await self._answer_detail(gateway, detail)

    async def _answer_detail(self, gateway: Gateway, detail: "_Detail") -> gateway_sync_pb2.UploadEvidenceResponse:
        fault = await self._prove(gateway, detail)
        incarnation, sequence = detail.request.incarnation, detail.request.sequence
        metrics.EVIDENCE.labels("faulty" if fault else "verified").inc()
        if fault:
            _log.warning(
                "evidence does not hold",
                gateway=gateway.gateway_id,
                incarnation=incarnation,
                sequence=sequence,
                fault=fault,
            )
        return gateway_sync_pb2.UploadEvidenceResponse(
            incarnation=incarnation, sequence=sequence, verified=not fault, fault=fault
        )

    # --- by hand ------------------------------------------------------------------------------------------------------

    async def check(self, gateway: Gateway, signed: batch_pb2.SignedBatch) -> tuple[ReceivedBatch, KeyStanding]:
        """The batch, if a key of the gateway signed it and it speaks of it, and what that key is worth on it; raises ``Refused``."""
        key = await self._keys.named(gateway, signed.key_id)
        batch = await asyncio.to_thread(_verified, gateway, signed, key)
        return batch, await self._keys.standing(gateway, batch)

    async def take(
        self,
        gateway: Gateway,
        signed: batch_pb2.SignedBatch,
        keep: Callable[[ReceivedBatch], ReceivedBatch] | None = None,
    ) -> tuple[ChainStep, batch_pb2.SignedReceipt]:
        """Post a batch that was carried by hand, or as much as ``keep`` leaves of it, and sign its receipt; raises ``Refused``.

        With ``keep``, people have decided, and no key has to stand for it.
        """
        batch, standing = await self.check(gateway, signed)
        if keep is None:
            must_be_good(batch, standing)
        restoring.must_know_what_it_rests_on(gateway, batch.directive_version)
        posted = await self._post_alone(gateway, batch if keep is None else keep(batch))
        (receipt,), _ = await self._receipts(([posted], None))
        return posted[0], receipt

    async def prove(self, gateway: Gateway, request: gateway_sync_pb2.UploadEvidenceRequest) -> str:
        """Check a posted batch's detail, and mark it as proven; which rule fails, or nothing."""
        return await self._prove(gateway, await self._read_detail(gateway, request))

    async def _read_detail(self, gateway: Gateway, request: gateway_sync_pb2.UploadEvidenceRequest) -> "_Detail":
        """What can be said of a batch's detail by itself."""
        if max(request.incarnation, request.sequence) > MAX_COUNT:
            raise malformed("incarnation or sequence above 2^63 - 1")
        stored = await self._store.batch(gateway.gateway_id, request.incarnation, request.sequence)
        if stored is None:
            return _Detail(request, fault="this batch has not been posted")
        if stored.proven or request.gone:
            return _Detail(request, proven=stored.proven)
        facts = await self._facts.of(gateway.gateway_id)
        batch = batch_pb2.Batch.FromString(stored.batch)
        try:
            # Thousands of signatures: not on the event loop.
            leaves = await asyncio.to_thread(_check, batch, request.compressed_leaves, facts)
        except (DetailError, EvidenceError) as err:
            return _Detail(request, fault=str(err))
        return _Detail(request, verified=_Leaves(batch, leaves, facts))

    async def _prove(self, gateway: Gateway, detail: "_Detail") -> str:
        """Mark a batch as proven whose detail holds, if it goes on from the detail of others; which rule fails, or nothing.

        One after another for one stream: each is asked whether it goes on from those before it.
        """
        request = detail.request
        if detail.proven or detail.fault:
            return detail.fault
        if detail.verified is None:
            why = f"batch {request.sequence}: its gateway has no detail of it any more: {request.gone[:MAX_GONE]!r}"
            if await self._ledger.suspect(
                gateway.gateway_id, request.incarnation, GatewayCaseKind.AUDIT, why, now=self._clock.now()
            ):
                self._events.ring()
            return why
        batch, leaves, facts = detail.verified.batch, detail.verified.leaves, detail.verified.facts
        fault = await broken(self._store, gateway.gateway_id, batch, leaves, facts)
        if fault:
            # Each batch holds by itself, and together they do not: somebody signed two stories of one use.
            opened = await self._ledger.suspect(
                gateway.gateway_id, request.incarnation, GatewayCaseKind.EVIDENCE, fault, now=self._clock.now()
            )
            if opened:
                self._events.ring()
            return fault
        await self._ledger.prove(
            gateway.gateway_id,
            request.incarnation,
            request.sequence,
            events=_verified_events(batch, leaves),
            now=self._clock.now(),
            detail=Detail(
                authorizations=tuple(AuthorizationId(claim.authorization_id) for claim in batch.claims),
                leaves=request.compressed_leaves,
            ),
        )
        self._events.ring()
        return ""


@dataclass(frozen=True, slots=True)
class _Leaves:
    """A batch's leaves, each of which holds by itself."""

    batch: batch_pb2.Batch
    leaves: Sequence[VerifiedLeaf]
    facts: GatewayFacts


@dataclass(frozen=True, slots=True)
class _Detail:
    """Detail as it came, and what is known of it: proven before, or why it does not hold, or its leaves; nothing of the three where it is gone."""

    request: gateway_sync_pb2.UploadEvidenceRequest
    proven: bool = False
    fault: str = ""
    verified: _Leaves | None = None


def _verified(gateway: Gateway, signed: batch_pb2.SignedBatch, key: VerifyingKey) -> ReceivedBatch:
    """The batch, if ``key`` signed exactly these bytes and they speak of its gateway."""
    if len(signed.batch) > MAX_BATCH_SIZE:
        raise malformed(f"a batch is at most {MAX_BATCH_SIZE} bytes")
    if not key.verify("batch", BATCH_RECIPIENT, signed.batch, signed.signature):
        raise malformed("the signature does not hold")
    try:
        batch = receive(signed.batch, signature=signed.signature, key_id=signed.key_id, currency=gateway.currency)
    except BatchError as err:
        raise malformed(str(err)) from err
    if (batch.gateway_id, batch.operator_id, batch.site_id) != (
        gateway.gateway_id,
        gateway.operator_id,
        gateway.site_id,
    ):
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "the batch speaks of another gateway, operator or site")
    return batch


def weight_of(signed: batch_pb2.SignedBatch) -> int:
    """What a batch that waits counts for, bytes: all of it, as whoever leaves the batch empty must not make us read on without end."""
    return signed.ByteSize() + MESSAGE_WEIGHT


def _check(batch: batch_pb2.Batch, compressed: bytes, facts: GatewayFacts) -> Sequence[VerifiedLeaf]:
    return verify(
        batch,
        decompress_leaves(compressed),
        device_key=facts.device_key,
        tariff=facts.tariff,
        register=facts.register,
        time_zone=facts.time_zone,
    )


def _verified_events(batch: batch_pb2.Batch, leaves: Sequence[VerifiedLeaf]) -> tuple[Event, ...]:
    return tuple(
        Event(
            kind="evidence.verified",
            key=verified.leaf.device,
            value=events_pb2.EvidenceVerified(
                operator_id=batch.operator_id,
                site_id=batch.site_id,
                gateway_id=batch.gateway_id,
                incarnation=batch.incarnation,
                sequence=batch.sequence,
                leaf=verified.index,
                authorization_id=verified.leaf.authorization,
                device_id=verified.leaf.device,
                account_id=batch.lines[verified.leaf.line].account_id,
                net_micros=verified.leaf.net_micros,
                tax_micros=verified.leaf.tax_micros,
                statements=verified.leaf.statements,
                traceparent=verified.leaf.traceparent or "",
            ).SerializeToString(),
            traceparent=verified.leaf.traceparent or "",
        )
        for verified in leaves
    )


def _signed_front(rows: Sequence[StoredDirective]) -> list[StoredDirective]:
    front = []
    for row in rows:
        if not row.signature:
            break
        front.append(row)
    return front
