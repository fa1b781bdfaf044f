"""A ledger restored from a backup takes back what its gateways were told (DESIGN 5.10, docs/adr/0022).

Rule 1: until every gateway has rewound, nothing is granted, refunded, paid or voided. What was used is posted.
Rule 2: only what the cloud itself signed is believed: a receipt or a directive that is not there proves that the ledger was restored, and a
signed grant is held again.
Rule 3: a gateway's chain stands as its gateway has it. What the ledger wrote meanwhile, without knowing the end of the chain, comes after it.
Rule 4: a hold is taken back whole, though older ones still stand whose ends come with batches that are yet to be posted again: so long an
account may hold more than it has, and nothing is decided by it. Before the ledger opens, what an account really lacks (payments that nobody
has posted again) is voided from its holds, counted, and their quotas recalled; what it has spent of it is debt, as after a chargeback.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from farthing.clock import Instant
from farthing.ids import AccountId, GatewayId, QuotaId
from farthing.v1 import directive_pb2, events_pb2, gateway_sync_pb2, ledger_pb2
from farthing_cloud.ledger.core import incarnations, paths
from farthing_cloud.ledger.core.book import Book
from farthing_cloud.ledger.core.directives import body_of, link
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause, DirectiveRow, Event, Posting
from farthing_cloud.ledger.core.rows import (
    Decision,
    DecisionKind,
    Epoch,
    Gateway,
    LedgerState,
    Quota,
    QuotaRequested,
    QuotaStatus,
    Rewinding,
    View,
)

#: What people do about a gateway that has nothing to show.
GIVE_UP: Final = "where its journal is lost, two persons decide that it is waited for no longer ('farthing-admin gateways give-up propose'), and it begins anew"


class LedgerRestoring(LedgerRefusal):
    """Not while the ledger is restored: the sentence says what has to happen first."""


class Proof(NamedTuple):
    """The last directive and the last receipt of a gateway, as the cloud signed them; version or sequence 0: it has none."""

    version: int
    directive_hash: bytes
    directive_epoch: int
    incarnation: int
    sequence: int
    batch_hash: bytes
    receipt_epoch: int


class Shown(NamedTuple):
    """A directive that a gateway handed back; its signature held."""

    directive: directive_pb2.Directive
    raw: bytes
    signature: bytes
    key_id: bytes


class Link(NamedTuple):
    """A place in a gateway's chain."""

    version: int
    hash: bytes


class Tail(NamedTuple):
    """A directive that the ledger wrote after the fork, and whose wish it was."""

    version: int
    body: bytes
    idempotency_key: str


class Loss(NamedTuple):
    """What the ledger had said and has no longer, and in which of its epochs it said so."""

    why: str
    epoch: int
    #: A directive is gone, not only a receipt: the chain has to be shown. (Batches are sent again anyway.)
    of_chain: bool


def must_be_open(epoch: Epoch) -> None:
    """Raise ``LedgerRestoring`` where money may not go out."""
    if epoch.state is not LedgerState.OPEN:
        raise LedgerRestoring(why_not_open(epoch))


def why_not_open(epoch: Epoch) -> str:
    """What people and callers are told; empty when it is open."""
    if epoch.state is LedgerState.STOPPED:
        return (
            f"the ledger was restored from a backup ({epoch.why}): nothing is granted, refunded, paid, voided or posted before two persons"
            " begin its next epoch ('farthing-admin ledger restored propose')"
        )
    if epoch.state is LedgerState.RESTORING:
        return (
            f"the ledger was restored from a backup and is in its epoch {epoch.number}: nothing is granted, refunded, paid or voided before all"
            " gateways have rewound ('farthing-admin ledger epoch')"
        )
    return ""


def must_have_shown(gateways: Iterable[Gateway], epoch: Epoch, *, otherwise: str = "say hello again later") -> None:
    """Batches are posted once the chains of all that they touch are whole: before, their quotas may be unknown. ``otherwise``: what to do."""
    if epoch.state is LedgerState.STOPPED:
        raise LedgerRestoring(why_not_open(epoch))
    for gateway in gateways:
        if gateway.epoch < epoch.number:
            raise LedgerRestoring(
                f"the ledger was restored, and {gateway.gateway_id} has not yet shown what it was told: {otherwise}"
            )


def must_know_what_it_rests_on(gateway: Gateway, directive_version: int) -> None:
    """A batch that was sealed with a directive that is not there would name quotas and tariffs that nobody here knows."""
    if directive_version > gateway.directive_version:
        raise LedgerRestoring(
            f"the batch rests on directive {directive_version} of {gateway.gateway_id}, its chain ends at {gateway.directive_version}:"
            " the ledger was restored, or the batch belongs elsewhere"
        )


def loss(proof: Proof, *, directive_hash: bytes | None, batch_hash: bytes | None) -> Loss | None:
    """What ``proof`` shows to be gone; ``directive_hash`` and ``batch_hash`` are what the ledger has in these places."""
    if proof.version and directive_hash != proof.directive_hash:
        what = "another one stands in its place" if directive_hash is not None else "which is not there"
        return Loss(
            f"directive {proof.version} was signed in epoch {proof.directive_epoch}, {what}",
            proof.directive_epoch,
            of_chain=True,
        )
    if proof.sequence and batch_hash != proof.batch_hash:
        what = "another one stands in its place" if batch_hash is not None else "which is not there"
        return Loss(
            f"batch {proof.sequence} of incarnation {proof.incarnation} was receipted in epoch {proof.receipt_epoch}, {what}",
            proof.receipt_epoch,
            of_chain=False,
        )
    return None


@dataclass(slots=True)
class _Taken:
    """What directives handed back say of the ledger's own rows; mutable only inside :func:`take_back`."""

    view: View
    gateway: Gateway
    incarnation: int
    quotas: dict[QuotaId, Quota]
    granted: set[str]
    recalled: set[str]
    floors: dict[AccountId, int]
    told: dict[AccountId, None]
    requests: list[tuple[GatewayId, int, QuotaRequested]]

    def note(self, directive: directive_pb2.Directive) -> None:
        """What the ledger did when it wrote ``directive``, done again."""
        kind = directive.WhichOneof("body")
        if kind == "welcome":
            self._welcomed(directive.welcome.incarnation)
        elif kind == "quota_granted":
            self._granted(directive.quota_granted)
        elif kind == "quota_recalled":
            self.recalled.add(directive.quota_recalled.quota_id)
        elif kind == "floor":
            self.gateway = replace(self.gateway, floor_micros=directive.floor.all_tokens_micros)
        elif kind == "floor_resolved":
            account_id = AccountId(directive.floor_resolved.account_id)
            waiting = self.floors.get(account_id, self.view.floors.get((self.gateway.gateway_id, account_id), 0))
            # Below 0 until the batches that spent it are proven again.
            self.floors[account_id] = waiting - directive.floor_resolved.amount_micros
        elif kind == "account":
            if directive.account.account_id not in self.view.told:
                self.told.setdefault(AccountId(directive.account.account_id))
        elif kind == "authorizing_stopped" and directive.authorizing_stopped.incarnation == self.gateway.incarnation:
            self.gateway = replace(self.gateway, quarantined=True)

    def _welcomed(self, incarnation: int) -> None:
        self.incarnation = max(self.incarnation, incarnation)
        if incarnation > self.gateway.incarnation:
            # It was decided, and its journal has begun it: what was known of the one before says nothing of this one.
            self.gateway = replace(
                self.gateway,
                incarnation=incarnation,
                adopted=True,
                quarantined=False,
                witness_start_id=b"",
                witness_position=0,
                sealed_sequence=0,
                waits_because="",
                waits_start_id=b"",
            )

    def _granted(self, record: directive_pb2.QuotaGranted) -> None:
        quota_id, account_id = QuotaId(record.quota_id), AccountId(record.account_id)
        self.granted.add(record.quota_id)
        if quota_id in self.view.quotas or quota_id in self.quotas:
            return
        if account_id not in self.view.payers:
            raise LedgerRestoring(
                f"{self.gateway.gateway_id} was granted money of account {account_id}, which the restored ledger does not know:"
                " make the account again, with its payments"
            )
        self.quotas[quota_id] = Quota(
            quota_id=quota_id,
            gateway_id=self.gateway.gateway_id,
            incarnation=record.incarnation,
            account_id=account_id,
            amount_micros=record.amount_micros,
            spend_until=Instant(record.spend_until_us),
            report_until=Instant(record.report_until_us),
            request_counter=record.request_counter,
        )
        answered = QuotaRequested(
            counter=record.request_counter,
            account_id=record.account_id,
            # What it had asked for stands in no directive; a gateway that has the answer does not ask again.
            wanted_micros=record.amount_micros,
            answer=gateway_sync_pb2.QUOTA_ANSWER_GRANTED,
            quota_id=record.quota_id,
            amount_micros=record.amount_micros,
        )
        self.requests.append((self.gateway.gateway_id, record.incarnation, answered))


def names_of(shown: Iterable[Shown]) -> tuple[tuple[AccountId, ...], tuple[QuotaId, ...]]:
    """The accounts and quotas that directives name: what has to be looked at."""
    accounts: dict[AccountId, None] = {}
    quotas: dict[QuotaId, None] = {}
    for each in shown:
        body = body_of(each.directive)
        if isinstance(body, directive_pb2.QuotaGranted | directive_pb2.FloorResolved | directive_pb2.AccountRecord):
            accounts.setdefault(AccountId(body.account_id))
        if isinstance(body, directive_pb2.QuotaGranted | directive_pb2.QuotaRecalled):
            quotas.setdefault(QuotaId(body.quota_id))
    return tuple(accounts), tuple(quotas)


def take_back(
    view: View,
    gateway_id: GatewayId,
    fork: Link,
    shown: Sequence[Shown],
    tail: Sequence[Tail],
    *,
    receipted: tuple[int, int],
    now: Instant,
) -> Posting:
    """Make a gateway's chain whole again, and with it what the ledger knows of the gateway.

    ``fork`` is the last link that both have, ``shown`` all that the gateway has after it, ``tail`` all that the ledger has after it,
    ``receipted`` the gateway's last receipt (incarnation, sequence). ``view`` was loaded with ``Touch.incarnations``, floors, who was told,
    and what :func:`names_of` names. Raises ``LedgerRefusal`` where ``shown`` is no chain.
    """
    epoch = view.epoch.number
    before = view.gateways[gateway_id]
    taken = _Taken(
        view=view,
        gateway=replace(before, epoch=epoch),
        incarnation=0,
        quotas={},
        granted=set(),
        recalled=set(),
        floors={},
        told={},
        requests=[],
    )
    rows: list[DirectiveRow] = []
    last = fork
    for each in shown:
        directive = each.directive
        if (directive.gateway_id, directive.version, directive.previous_hash) != (
            gateway_id,
            last.version + 1,
            last.hash,
        ):
            raise LedgerRefusal(f"directive {directive.version} of {gateway_id} does not follow {last.version}")
        last = Link(directive.version, hashlib.sha256(each.raw).digest())
        rows.append(
            DirectiveRow(
                gateway_id=gateway_id,
                version=last.version,
                previous_hash=directive.previous_hash,
                body=each.raw,
                body_hash=last.hash,
                signature=each.signature,
                key_id=each.key_id,
            )
        )
        taken.note(directive)
    gateway = taken.gateway
    moved = 0
    if shown:
        gateway = replace(gateway, directive_version=last.version, directive_hash=last.hash)
        for late in tail:
            body = body_of(directive_pb2.Directive.FromString(late.body))
            if body is None or _is_said(taken, body):
                continue
            if isinstance(body, directive_pb2.FloorPolicy):
                # It is the later word now, so this is what the gateway may give away.
                gateway = replace(gateway, floor_micros=body.all_tokens_micros)
            gateway, row = link(gateway, body, dated_at=now, idempotency_key=late.idempotency_key)
            rows.append(row)
            moved += 1
    body = directive_pb2.LedgerRestored(ledger_epoch=epoch, directives=len(shown), last_version=last.version)
    gateway, row = link(gateway, body, dated_at=now)
    rows.append(row)

    book = Book(view)
    granted = [
        quota._replace(status=_status(quota, gateway, recalled=quota.quota_id in taken.recalled))
        for quota in taken.quotas.values()
    ]
    for quota in granted:
        book.hold(quota, Cause.REINSTATED)
    for quota in view.quotas.values():
        if quota.gateway_id == gateway_id and quota.status is not QuotaStatus.CLOSED:
            status = _status(quota, gateway, recalled=quota.quota_id in taken.recalled)
            if status is not quota.status:
                book.set_status(quota, status)
    return Posting(
        kind="shown",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        transfers=book.transfers(),
        changes=book.changes(),
        gateways=(gateway,),
        quotas_granted=tuple(granted),
        quotas=book.quotas((*view.quotas.values(), *granted)),
        directives=tuple(rows),
        floors=tuple((gateway_id, account_id, micros) for account_id, micros in taken.floors.items()),
        told=tuple((gateway_id, account_id) for account_id in taken.told),
        requests_shown=tuple(taken.requests),
        gateway_epochs=((gateway_id, epoch),),
        rewinding=Rewinding(
            gateway_id=gateway_id,
            epoch=epoch,
            shown_at=now,
            directives=len(shown),
            set_aside=moved,
            quotas=len(granted),
            reinstated_micros=sum(quota.amount_micros for quota in granted),
            incarnation=receipted[0],
            sequence=receipted[1],
        ),
        chain_replaced=(gateway_id, fork.version) if shown and tail else None,
        events=tuple(_event(view, quota) for quota in granted),
    )


def settle(view: View, account_id: AccountId, *, now: Instant) -> Posting | None:
    """End what an account holds and has not, the youngest quotas first; and what it has spent beyond all it has is debt.

    None where it lacks nothing. ``view`` was loaded with ``Touch.account_quotas`` and the gateways of those quotas.
    """
    book = Book(view)
    lacks = -book.available(account_id)
    if lacks <= 0:
        return None
    gateways = dict(view.gateways)
    rows: list[DirectiveRow] = []
    short: dict[GatewayId, int] = {}
    for quota in sorted(view.quotas.values(), key=lambda each: (each.report_until, each.quota_id), reverse=True):
        part = min(lacks, book.held(quota))
        if part <= 0:
            continue
        lacks -= part
        book.void(quota, part, Cause.SHORT)
        short[quota.gateway_id] = short.get(quota.gateway_id, 0) + part
        if quota.status is QuotaStatus.OPEN:
            book.set_status(quota, QuotaStatus.RECALLED)
            recall = directive_pb2.QuotaRecalled(
                quota_id=quota.quota_id, reason="its account has less since the restore"
            )
            gateways[quota.gateway_id], row = link(gateways[quota.gateway_id], recall, dated_at=now)
            rows.append(row)
    book.post(paths.debt(account_id), paths.payer(account_id), lacks, Cause.SHORT)
    return replace(
        _posting(view, "short", now),
        transfers=book.transfers(),
        changes=book.changes(),
        gateways=tuple(gateway for gateway_id, gateway in gateways.items() if gateway != view.gateways[gateway_id]),
        quotas=book.quotas(view.quotas.values()),
        directives=tuple(rows),
        short=tuple(short.items()),
    )


def _is_said(taken: _Taken, body: object) -> bool:
    """Whether the gateway has heard as much in its own chain."""
    if isinstance(body, directive_pb2.Welcome):
        return body.incarnation <= taken.incarnation
    return isinstance(body, directive_pb2.QuotaGranted) and body.quota_id in taken.granted


def _status(quota: Quota, gateway: Gateway, *, recalled: bool) -> QuotaStatus:
    if quota.incarnation < gateway.incarnation:
        return QuotaStatus.FROZEN
    return QuotaStatus.RECALLED if recalled and quota.status is QuotaStatus.OPEN else quota.status


def _event(view: View, quota: Quota) -> Event:
    value = events_pb2.QuotaChanged(
        operator_id=view.operator_id,
        quota_id=quota.quota_id,
        gateway_id=quota.gateway_id,
        account_id=quota.account_id,
        amount_micros=quota.amount_micros,
    )
    return Event(kind="quota.granted", key=quota.account_id, value=value.SerializeToString())


def must_show_again(view: View, gateway_id: GatewayId, *, now: Instant) -> Posting:
    """A gateway that nobody waited for any more has come back with what an earlier epoch told it: it shows that first."""
    return Posting(
        kind="gateway-case",
        operator_id=view.operator_id,
        currency=view.currency,
        posted_at=now,
        business_at=now,
        gateways=(replace(view.gateways[gateway_id], epoch=0),),
        gateway_epochs=((gateway_id, 0),),
    )


def propose(view: View, *, reason: str, person: str, now: Instant) -> tuple[Decision, Posting]:
    """A proposal of ``person`` that the ledger's next epoch begins."""
    content = ledger_pb2.DecisionContent(
        kind=DecisionKind.RESTORED.value,
        operator_id=view.operator_id,
        reason=reason,
        waits_because=view.epoch.why,
        proposed_by=person,
        proposed_at_us=now,
        ledger_epoch=view.epoch.number + 1,
    ).SerializeToString(deterministic=True)
    content_hash = hashlib.sha256(content).digest()
    decision = Decision(
        decision_id="d-" + content_hash.hex()[:16],
        kind=DecisionKind.RESTORED,
        gateway_id=GatewayId(""),
        incarnation=view.epoch.number + 1,
        reason=reason,
        content=content,
        content_hash=content_hash,
        proposed_by=person,
        proposed_at=now,
    )
    return decision, replace(_posting(view, "propose", now), proposed=decision)


def begin(view: View, decision: Decision, *, now: Instant) -> tuple[Epoch, Posting]:
    """The next epoch. Whoever approved it is added by the caller."""
    if view.epoch.state is not LedgerState.STOPPED or decision.incarnation != view.epoch.number + 1:
        raise LedgerRefusal(
            f"{decision.decision_id} begins epoch {decision.incarnation}: the ledger is in {view.epoch.number}, {view.epoch.state}"
        )
    epoch = replace(view.epoch, number=decision.incarnation, state=LedgerState.RESTORING, since=now)
    return epoch, replace(_posting(view, "epoch", now), epoch_begun=(epoch.number, decision.decision_id))


def give_up(
    view: View, gateway_id: GatewayId, *, unposted: Rewinding | None, receipt_keys: list[bytes], now: Instant
) -> Posting:
    """Wait for a gateway no longer, whether it has shown nothing of what it was told since the backup, or has, and its batches do not come.

    Its present incarnation is over. What it still holds by what the ledger knows is frozen, not voided. ``unposted``: what it has shown, where
    batches are missing that it has receipts for; None: nothing, or it has rewound. ``view`` was loaded with ``Touch.incarnations``.
    """
    epoch = view.epoch
    gateway = view.gateways[gateway_id]
    if epoch.state is not LedgerState.RESTORING or (gateway.epoch >= epoch.number and unposted is None):
        raise LedgerRefusal(f"the ledger does not wait for {gateway_id}")
    view = replace(view, gateways={**view.gateways, gateway_id: replace(gateway, epoch=epoch.number)})
    posting = incarnations.begin(view, gateway_id, receipt_keys=receipt_keys, now=now)
    # Its last receipt stays written down: should it come back, those batches are wanted still.
    shown = unposted or Rewinding(gateway_id=gateway_id, epoch=epoch.number, shown_at=now)
    return replace(
        posting,
        kind="given-up",
        gateway_epochs=((gateway_id, epoch.number),),
        rewinding=replace(shown, given_up=True),
    )


def behind_shown(gateway: Gateway, back: Rewinding, proof: Proof) -> str:
    """How a journal is behind what it has shown, while batches of that are missing; empty where it is not.

    ``back``: what its gateway has shown in this epoch. One that has begun a new incarnation since is another journal, by a decision (:func:`goes_on`).
    """
    if back.given_up or _has_begun_anew(gateway, back) or _receipt(proof) >= _last(back):
        return ""
    return (
        f"its last receipt is for batch {proof.sequence} of incarnation {proof.incarnation}, and since the ledger was restored it has shown"
        f" one for batch {back.sequence} of incarnation {back.incarnation}"
    )


def goes_on(gateway: Gateway, back: Rewinding, proof: Proof, *, is_rewound: bool, is_posted: bool) -> Rewinding:
    """What two persons decided has begun: from here on the ledger waits for what the journal has that speaks now, not for one that is gone.

    ``back``: what the gateway has shown, ``is_rewound``: all of it is posted; ``is_posted``: the batch of the receipt that it has now is. Where it has
    no receipt to show, or all that it has is posted (what it had of earlier incarnations went before), nobody waits; should the other journal come back,
    its batches are wanted still.
    """
    if not _has_begun_anew(gateway, back):
        return back
    has, shown = _receipt(proof), _last(back)
    if has == shown or (is_rewound and (has < shown or is_posted)):
        return back
    if proof.sequence and not is_posted:
        return replace(back, incarnation=proof.incarnation, sequence=proof.sequence)
    return replace(back, given_up=True)


def waits_for(view: View, after: Rewinding, *, now: Instant) -> Posting:
    """Write down what a restored ledger waits for."""
    return replace(_posting(view, "shown", now), rewinding=after)


def _has_begun_anew(gateway: Gateway, back: Rewinding) -> bool:
    """Whether two persons have decided a new incarnation since the ledger was restored."""
    return gateway.incarnation > max(back.incarnation, incarnations.first_of(back.epoch) - 1)


def _receipt(proof: Proof) -> tuple[int, int]:
    return proof.incarnation, proof.sequence


def _last(rewinding: Rewinding) -> tuple[int, int]:
    return rewinding.incarnation, rewinding.sequence


def _posting(view: View, kind: str, now: Instant) -> Posting:
    return Posting(kind=kind, operator_id=view.operator_id, currency=view.currency, posted_at=now, business_at=now)
