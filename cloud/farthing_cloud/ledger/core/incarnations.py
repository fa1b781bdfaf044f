"""Which journal speaks for a gateway (DESIGN 4 *Witnesses against rollback*, 5.9).

Rule 1: one journal begins an incarnation: the first that says so. Whoever comes later, or behind what the ledger has seen, waits for people.
Rule 2: a gateway that waits is given nothing, and what it posts is posted.
Rule 3: a new incarnation is a decision of two persons; it freezes what the old one holds and takes nothing back.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from farthing.clock import Instant
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, directive_pb2, events_pb2
from farthing_cloud.ledger.core.directives import link, welcome
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import DirectiveRow, Event, Posting, QuotaAfter
from farthing_cloud.ledger.core.rows import (
    Chain,
    Claimed,
    Gateway,
    GatewayCase,
    GatewayCaseKind,
    QuotaStatus,
    View,
)

#: Open claims in a welcome: at 100 bytes each they stay below the 1 MiB that a gateway takes for one directive. What is left out costs
#: nothing but bytes, as claims are cumulative.
MAX_OPEN_CLAIMS: Final = 8_000
#: Incarnations that two persons can have decided in one epoch of the ledger. A restored ledger does not know which of them it has lost, and a journal that
#: shows what it was told may be an older one: the first that an epoch begins is beyond all of the epoch before, so that no two journals share one.
INCARNATIONS_OF_AN_EPOCH: Final = 1_000


class UnknownIncarnation(LedgerRefusal):
    """A gateway speaks of an incarnation that this ledger has never begun."""


class Standing(StrEnum):
    """What a gateway may do after its hello (gateway_sync.proto)."""

    AGREED = "agreed"
    BEGIN = "begin"
    WAITS = "waits"
    #: The ledger was restored: the gateway shows what it was told before anything else.
    REWIND = "rewind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a gateway says of its journal. ``incarnation`` 0: it has none. ``sealed_sequence`` None: it did not say."""

    incarnation: int
    start_id: bytes
    position: int
    sealed_sequence: int | None = None
    suspects_rollback: bool = False
    salvaged: bool = False
    #: How it is behind what it has shown to a restored ledger; empty where it is not.
    behind_shown: str = ""


def judge(gateway: Gateway, chain: Chain, hello: Hello) -> tuple[Standing, str]:
    """What the gateway may do, and why it has to wait; ``chain`` is that of the present incarnation.

    Raises ``UnknownIncarnation`` for an incarnation after the present one.
    """
    if hello.incarnation > gateway.incarnation:
        raise UnknownIncarnation(
            f"{gateway.gateway_id} speaks of incarnation {hello.incarnation}, the ledger knows {gateway.incarnation}:"
            " the ledger was restored, or the gateway belongs elsewhere"
        )
    if hello.incarnation < gateway.incarnation:
        if not gateway.adopted and not chain.sequence:
            return Standing.BEGIN, ""
        known = f"incarnation {gateway.incarnation} has {chain.sequence} batches"
        if hello.incarnation == 0:
            return Standing.WAITS, f"it has no journal, and {known}: its journal is lost or another one"
        return Standing.WAITS, f"its journal is of incarnation {hello.incarnation}, and {known}, by another journal"
    if hello.suspects_rollback:
        return Standing.WAITS, "it says that its journal went backwards"
    if hello.salvaged:
        return Standing.WAITS, "it says that its journal was salvaged"
    behind = hello.behind_shown or _behind(gateway, chain, hello)
    if behind:
        return Standing.WAITS, behind
    if gateway.waits_because and not _came_back(gateway, hello):
        return Standing.WAITS, gateway.waits_because
    return Standing.AGREED, ""


def _behind(gateway: Gateway, chain: Chain, hello: Hello) -> str:
    """How the journal is behind what the ledger has seen. A hello of the very start that was seen is only late on its way."""
    if not gateway.witness_start_id or hello.start_id == gateway.witness_start_id:
        return ""
    if hello.position < gateway.witness_position:
        return f"a new start at position {hello.position}, and position {gateway.witness_position} has been seen"
    if hello.sealed_sequence is not None and hello.sealed_sequence < chain.sequence:
        return f"its last sealed batch is {hello.sealed_sequence}, and {chain.sequence} has been posted"
    return ""


def _came_back(gateway: Gateway, hello: Hello) -> bool:
    """The start that the ledger has seen is still there: what did not agree was late on its way, or another machine's."""
    return (
        hello.start_id == gateway.witness_start_id
        and hello.start_id != gateway.waits_start_id
        and hello.position >= gateway.witness_position
    )


def hear(view: View, gateway_id: GatewayId, hello: Hello, *, now: Instant) -> tuple[Standing, str, Posting | None]:
    """As :func:`judge`, with what has to be written about it: a case opened or closed; None when there is nothing."""
    gateway, chain = view.gateways[gateway_id], view.chain
    assert chain is not None
    standing, why = judge(gateway, chain, hello)
    case = GatewayCase(
        gateway_id=gateway_id, incarnation=gateway.incarnation, kind=GatewayCaseKind.INCARNATION, detail=why
    )
    if standing is Standing.WAITS and not gateway.waits_because:
        after = replace(gateway, waits_because=why, waits_start_id=hello.start_id, contact_at=now)
        event = events_pb2.GatewayCaseOpened(
            operator_id=view.operator_id,
            gateway_id=gateway_id,
            incarnation=gateway.incarnation,
            kind=case.kind.value,
            detail=why,
        )
        events = (Event(kind="gateway.case", key=gateway_id, value=event.SerializeToString()),)
        return standing, why, _posting(view, after, now, gateway_cases=(case,), events=events)
    if standing is Standing.AGREED and gateway.waits_because:
        after = replace(gateway, waits_because="", waits_start_id=b"", contact_at=now)
        return standing, why, _posting(view, after, now, gateway_cases_closed=(case,))
    return standing, why, None


def _posting(
    view: View,
    gateway: Gateway,
    now: Instant,
    *,
    gateway_cases: tuple[GatewayCase, ...] = (),
    gateway_cases_closed: tuple[GatewayCase, ...] = (),
    directives: tuple[DirectiveRow, ...] = (),
    events: tuple[Event, ...] = (),
) -> Posting:
    return Posting(
        kind="gateway-case",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(gateway,),
        directives=directives,
        gateway_cases=gateway_cases,
        gateway_cases_closed=gateway_cases_closed,
        events=events,
    )


def equivocation(view: View, gateway_id: GatewayId, incarnation: int, detail: str, *, now: Instant) -> Posting | None:
    """A gateway told two stories, ``detail`` says which: authorizing ends until a new incarnation, posting does not.

    None when nothing changes: it was told before, or of an incarnation that is over, whose journal authorizes no more.
    """
    gateway = view.gateways[gateway_id]
    if gateway.quarantined or incarnation != gateway.incarnation:
        return None
    body = directive_pb2.AuthorizingStopped(incarnation=incarnation, reason=detail)
    gateway, row = link(replace(gateway, quarantined=True), body, dated_at=now)
    case = GatewayCase(gateway_id=gateway_id, incarnation=incarnation, kind=GatewayCaseKind.EQUIVOCATION, detail=detail)
    event = events_pb2.GatewayCaseOpened(
        operator_id=view.operator_id,
        gateway_id=gateway_id,
        incarnation=incarnation,
        kind=case.kind.value,
        detail=detail,
    )
    return _posting(
        view,
        gateway,
        now,
        gateway_cases=(case,),
        directives=(row,),
        events=(Event(kind="gateway.case", key=gateway_id, value=event.SerializeToString()),),
    )


def begin(view: View, gateway_id: GatewayId, *, receipt_keys: list[bytes], now: Instant) -> Posting:
    """The next incarnation: its welcome with the open claims, the old quotas frozen, the open cases closed.

    ``view`` was loaded with ``Touch.incarnations``. Whoever approved it is added by the caller.
    """
    before = view.gateways[gateway_id]
    after = replace(
        before,
        incarnation=max(before.incarnation + 1, first_of(view.epoch.number)),
        adopted=False,
        quarantined=False,
        witness_start_id=b"",
        witness_position=0,
        sealed_sequence=0,
        waits_because="",
        waits_start_id=b"",
    )
    open_claims = [claim_message(claim) for claim in view.open_claims[:MAX_OPEN_CLAIMS]]
    after, row = link(after, welcome(after, receipt_keys, open_claims), dated_at=now)
    frozen = tuple(
        QuotaAfter(
            quota_id=quota.quota_id,
            posted_micros=quota.posted_micros,
            voided_micros=quota.voided_micros,
            status=QuotaStatus.FROZEN,
        )
        for quota in view.quotas.values()
        if quota.gateway_id == gateway_id and quota.status not in (QuotaStatus.CLOSED, QuotaStatus.FROZEN)
    )
    closed = tuple(
        GatewayCase(gateway_id=gateway_id, incarnation=before.incarnation, kind=kind, detail="")
        for kind in GatewayCaseKind
    )
    return Posting(
        kind="incarnation",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(after,),
        quotas=frozen,
        directives=(row,),
        gateway_cases_closed=closed,
    )


def first_of(epoch: int) -> int:
    """The first incarnation that is decided in an epoch of the ledger; one that only the epochs before it have decided is less."""
    return INCARNATIONS_OF_AN_EPOCH * (epoch - 1) + 1


def claim_message(claim: Claimed) -> batch_pb2.Claim:
    """A stored claim as gateways are told it."""
    return batch_pb2.Claim(
        authorization_id=claim.authorization_id,
        device_id=claim.register.device_id,
        register_id=claim.register.register_id,
        register_epoch=claim.register.register_epoch,
        register_from=claim.register_from,
        register_to=claim.register_to,
        net_micros=claim.net_micros,
        tax_micros=claim.tax_micros,
        final=claim.final,
        granted_by=claim.gateway_id,
    )


def suspicion(
    view: View, gateway_id: GatewayId, incarnation: int, kind: GatewayCaseKind, detail: str, *, now: Instant
) -> Posting:
    """A case for people, and nothing else: authorizing and posting go on. It is open until a new incarnation begins."""
    case = GatewayCase(gateway_id=gateway_id, incarnation=incarnation, kind=kind, detail=detail)
    event = events_pb2.GatewayCaseOpened(
        operator_id=view.operator_id,
        gateway_id=gateway_id,
        incarnation=incarnation,
        kind=kind.value,
        detail=detail,
    )
    return _posting(
        view,
        view.gateways[gateway_id],
        now,
        gateway_cases=(case,),
        events=(Event(kind="gateway.case", key=gateway_id, value=event.SerializeToString()),),
    )
