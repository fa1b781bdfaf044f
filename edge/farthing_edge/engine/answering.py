"""What is said: answers of a group, and the signatures of its grants, made while the group is being written.

Rule 1: nothing is said before :meth:`Answering.say`, which the writer calls when the group is durable.
Rule 2: a grant that the token could not sign is as if nothing had been said: its device asks again, and hears it then.
Rule 3: what a group says of one authorization is one grant, the newest of the group: it is durable when they all are, of several a device takes the newest,
and a signature costs more than everything else that an answer takes.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from farthing.device import cose
from farthing.device.messages import Answer, AnswerStatus, Witness
from farthing.hsm import HsmError
from farthing.hsm.thread import when_settled
from farthing.ids import START_ID_SIZE, AuthorizationId, StartId
from farthing.refusal import Refusal
from farthing_edge.authorization.commands import DeviceStatement, Reply
from farthing_edge.authorization.decision import status_of
from farthing_edge.authorization.grants import grant_payload
from farthing_edge.authorization.state import Authorization, GatewayState, Told
from farthing_edge.authorization.witnesses import vouches
from farthing_edge.engine.asked import EngineLimits, Item
from farthing_edge.engine.signing import GrantSigner

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Draft:
    """An answer before its commit and signature."""

    item: Item
    reply: Reply | None
    #: Whose latest grant goes with it.
    authorization: AuthorizationId | None
    receipted_counter: int
    #: Whether it may say how far the journal is.
    vouches: bool


@dataclass(slots=True)
class Drafts:
    """The answers of a group, in order, and what goes with them: of each authorization what it was last told."""

    answers: list[Draft] = field(default_factory=list)
    told: dict[AuthorizationId, tuple[Authorization, Told]] = field(default_factory=dict)


class Signing(NamedTuple):
    """Payloads of the grants of some authorizations, and their signatures under way."""

    authorizations: list[AuthorizationId]
    payloads: list[bytes]
    signatures: "asyncio.Future[list[bytes]]"


class Answering:
    """Makes answers of replies. ``durable_position`` says how far the journal is; ``has_room`` is called when signatures have made some."""

    def __init__(
        self,
        *,
        signer: GrantSigner,
        limits: EngineLimits,
        state: Callable[[], GatewayState],
        durable_position: Callable[[], int],
        has_room: Callable[[], None],
    ) -> None:
        self._signer = signer
        self._limits = limits
        self._state = state
        self._durable_position = durable_position
        self._has_room = has_room
        self._under_way: set[asyncio.Future[list[bytes]]] = set()
        self._signing_count = 0
        #: Refusals that are not journaled (unknown devices, reused counters...), by number; volatile.
        self.refused_unrecorded: dict[int, int] = {}

    # Answers that rest on no decision ---------------------------------------------------------------------------------

    def refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        """A no that is counted and not journaled; the status follows from the number."""
        status = status_of(refusal)
        if status is AnswerStatus.LATER and retry_after_ms is None:
            retry_after_ms = self._limits.retry_after_ms
        self.count(refusal)
        return Answer(
            gateway=self._state().gateway_id,
            # Nobody has held what its device has seen against the journal.
            witness=replace(self._witness(), position=0),
            answers=answers,
            status=status,
            receipted_counter=0,
            refusal=refusal,
            retry_after_ms=retry_after_ms if status is AnswerStatus.LATER else None,
        )

    def count(self, refusal: Refusal) -> None:
        """One more that is not journaled."""
        self.refused_unrecorded[refusal] = self.refused_unrecorded.get(refusal, 0) + 1

    def later(self, command: DeviceStatement, refusal: Refusal) -> Answer:
        """To a statement that was not decided."""
        return self.refusal(answers=(command.statement.device_epoch, command.statement.counter), refusal=refusal)

    def unwritten(self, item: Item, refusal: Refusal) -> None:
        """Tell ``item`` that nothing became of it: a statement by ``refusal``, all others that it is over."""
        command = item.command
        item.resolve(self.later(command, refusal) if isinstance(command, DeviceStatement) else None)

    # A group's answers ------------------------------------------------------------------------------------------------

    def draft(self, drafts: Drafts, item: Item, reply: Reply | None) -> None:
        """Add to ``drafts`` what will be said to ``item``, as the state is now."""
        if reply is None:
            drafts.answers.append(Draft(item, None, None, 0, vouches=False))
            return
        state = self._state()
        granted = None
        if reply.grant_of is not None:
            authorization = state.authorizations.get(reply.grant_of)
            if authorization is not None and authorization.told is not None:
                granted = reply.grant_of
                drafts.told[granted] = authorization, authorization.told
        device = state.devices.get(reply.device)
        receipted = 0 if device is None else state.receipted_counter(device)
        drafts.answers.append(Draft(item, reply, granted, receipted, vouches=vouches(state, reply)))

    @property
    def is_full(self) -> bool:
        """Whether too many grants wait for the token; ``has_room`` is called when they no longer do."""
        return self._signing_count > self._limits.signing and bool(self._under_way)

    def sign(self, drafts: Drafts) -> Signing | None:
        """Set the signatures of their grants under way; None where there are none."""
        if not drafts.told:
            return None
        gateway_id = self._state().gateway_id
        payloads = [grant_payload(authorization, gateway_id, told) for authorization, told in drafts.told.values()]
        to_be_signed = [
            cose.to_be_signed("grant", authorization.device_id, payload)
            for (authorization, _), payload in zip(drafts.told.values(), payloads, strict=True)
        ]
        try:
            signatures: asyncio.Future[list[bytes]] = asyncio.ensure_future(self._signer.sign_many(to_be_signed))
        except HsmError as err:
            signatures = asyncio.get_running_loop().create_future()
            signatures.set_exception(err)
        self._signing_count += len(payloads)
        when_settled(signatures, lambda _: self._signed(len(payloads)))
        return Signing(list(drafts.told), payloads, signatures)

    def say(self, drafts: Drafts, signing: Signing | None) -> None:
        """The group is durable: answer everybody, those with a grant once it is signed."""
        witness = self._witness()
        signed = []
        for draft in drafts.answers:
            if draft.authorization is None:
                draft.item.resolve(self._answer(draft, witness, None))
            else:
                signed.append(draft)
        if signing is None:
            return
        if signing.signatures.done():
            self._say_signed(signed, witness, signing)
        else:
            self._under_way.add(signing.signatures)
            when_settled(signing.signatures, lambda _: self._say_signed(signed, witness, signing))

    async def said(self) -> None:
        """Return when no grant waits for its signature any more."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _signed(self, count: int) -> None:
        if self._signing_count > self._limits.signing:
            self._has_room()
        self._signing_count -= count

    def _say_signed(self, drafts: Sequence[Draft], witness: Witness, signing: Signing) -> None:
        self._under_way.discard(signing.signatures)
        try:
            signatures = signing.signatures.result()
        except HsmError as err:
            # The grants are durable: their devices ask again and hear them then.
            _log.warning("grants could not be signed", count=len(drafts), fault=str(err))
            for draft in drafts:
                self.unwritten(draft.item, Refusal.OVERLOADED)
            return
        kid = self._signer.kid
        grants = {
            authorization: cose.encode_sign1(kid, payload, signature)
            for authorization, payload, signature in zip(
                signing.authorizations, signing.payloads, signatures, strict=True
            )
        }
        for draft in drafts:
            assert draft.authorization is not None  # else it was said without one
            draft.item.resolve(self._answer(draft, witness, grants[draft.authorization]))

    def _answer(self, draft: Draft, witness: Witness, grant: bytes | None) -> Answer | None:
        reply = draft.reply
        if reply is None:
            return None
        return Answer(
            gateway=self._state().gateway_id,
            witness=witness if draft.vouches else replace(witness, position=0),
            answers=reply.answers,
            status=reply.status,
            receipted_counter=draft.receipted_counter,
            refusal=reply.refusal,
            grant=grant,
            retry_after_ms=self._limits.retry_after_ms if reply.status is AnswerStatus.LATER else None,
            closed=reply.closed,
            ticked=reply.ticked,
            asks=reply.asks,
        )

    def _witness(self) -> Witness:
        state = self._state()
        return Witness(
            incarnation=state.incarnation,
            start_id=StartId(state.start_id or bytes(START_ID_SIZE)),
            # What is durable, not what is being decided.
            position=state.vouched_position(self._durable_position()),
        )


def cancel(signing: Signing | None) -> None:
    """Their group was not written."""
    if signing is not None:
        signing.signatures.cancel()
