"""Postings as the parameters of the calls that write them (``schema/always_post.sql``)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.ids import AccountId, GatewayId
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core import audit
from farthing_cloud.ledger.core.posting import BatchAdded, Cause, Event, Parked, Posting, QuotaAfter, TransferKind
from farthing_cloud.ledger.core.rows import Balances, Chain, Demand, Gateway, GatewayCase
from farthing_cloud.ledger.store.arrays import flags, hexed, names, numbers, octets, repeated, texts, written
from farthing_cloud.ledger.store.loading import Places


def arguments(posting: Posting, case_ids: Sequence[int], places: Places) -> dict[str, Any]:
    """A posting as the parameters of ``post``; ``case_ids`` are of its cases, ``places`` of its claims."""
    digest = audit.digest(posting.transfers)
    events = [
        event.value if event.case is None else _with_case_id(event.value, case_ids[event.case])
        for event in posting.events
    ]
    rest = _rest(posting, case_ids)
    if posting.batch is not None:
        rest["batch"] = _batch(posting.batch)
        rest["parked"] = [_parked(parked) for parked in posting.batch.parked]
    return {
        **row_arguments(posting, places),
        **_after(posting.changes, posting.quotas, posting.demand, posting.events, events),
        "kind": posting.kind,
        "subject": audit.subject(posting),
        "posted_at_us": posting.posted_at,
        "business_at_us": posting.business_at,
        "body": audit.link_body(posting, digest),
        "digest": digest,
        "batch": posting.batch.batch if posting.batch is not None else None,
        "rest": _as_json(rest),
    }


def row_arguments(posting: Posting, places: Places) -> dict[str, Any]:
    """What only this posting has, as the parameters of ``post_rows``: transfers, and claims that stand at ``places``."""
    # Transfers name accounts, quotas and the rest by their places, from 1.
    kinds, debited, credited, amounts, quota_ids, causes, lines, authorizations = (
        zip(*posting.transfers, strict=True) if posting.transfers else ((),) * 8
    )
    accounts = _places(posting.changes)
    sorts, sorted_as = _sorts(kinds, causes)
    quotas = _places(filter(None, quota_ids))
    authorized = _places(filter(None, authorizations))
    quotas[None] = authorized[None] = "0"
    # A claim that another gateway's batch raised is one of a few.
    claims = [claim for claim in posting.claims if claim.raised_by is None]
    claimed, registers, froms, tos, nets, taxes, finals, asides = (
        tuple(zip(*claims, strict=True))[:8] if claims else ((),) * 8
    )
    gateway_id = claims[0].gateway_id if claims else GatewayId("")
    return {
        "operator_id": posting.operator_id,
        "currency": posting.currency,
        "a_path": names(posting.changes),
        "s_kind": names(kind for kind, _ in sorts),
        "s_cause": names(cause for _, cause in sorts),
        "n_quota": names(filter(None, quotas)),
        "n_authorization": octets(filter(None, authorized)),
        "t_sort": written(sorted_as) if len(sorts) != 1 else repeated("1", len(kinds)),
        "t_debit": written(map(accounts.__getitem__, debited)),
        "t_credit": written(map(accounts.__getitem__, credited)),
        "t_amount": numbers(amounts),
        "t_quota": written(map(quotas.__getitem__, quota_ids)),
        "t_line": numbers(-1 if line is None else line for line in lines),
        "t_authorization": written(map(authorized.__getitem__, authorizations)),
        "c_authorization": octets(claimed),
        "c_register": numbers(map(places.registers.__getitem__, registers)),
        "c_from": numbers(froms),
        "c_to": numbers(tos),
        "c_net": numbers(nets),
        "c_tax": numbers(taxes),
        "c_final": flags(finals),
        "c_aside": flags(asides),
        "c_known": flags((authorization_id, gateway_id) in places.known for authorization_id in claimed)
        if places.known
        else repeated("f", len(claimed)),
        "c_gateway": gateway_id,
        "c_incarnation": claims[0].incarnation if claims else 0,
        "c_sequence": claims[0].sequence if claims else 0,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A posting whose rows are written, and what its link of the audit chain says."""

    posting: Posting
    posting_id: int
    digest: bytes
    body: bytes


def together_arguments(links: Sequence[Link]) -> dict[str, Any]:
    """What the postings of several batches leave, as the parameters of ``post_rest``; each is ordinary, all are of one moment."""
    postings = [link.posting for link in links]
    last = postings[-1]
    batches = [posting.batch for posting in postings if posting.batch is not None]
    events = [event for posting in postings for event in posting.events]
    quotas = {quota.quota_id: quota for posting in postings for quota in posting.quotas}
    rest = {
        "gateways": [_gateway(gateway) for gateway in last.gateways],
        "chains": [_chain(*last.chain)] if last.chain is not None else [],
        "in_use": [
            {"quota_id": quota_id, "at_us": at}
            for quota_id, at in {name: at for posting in postings for name, at in posting.in_use}.items()
        ],
        "batches": [{"place": place, **_batch(batch)} for place, batch in enumerate(batches, 1)],
        "parked": [
            {"place": place, **_parked(parked)} for place, batch in enumerate(batches, 1) for parked in batch.parked
        ],
    }
    return {
        "operator_id": last.operator_id,
        "currency": last.currency,
        "kind": last.kind,
        "posted_at_us": last.posted_at,
        "l_posting": numbers(link.posting_id for link in links),
        "l_subject": names(map(audit.subject, postings)),
        "l_business_at_us": numbers(posting.business_at for posting in postings),
        "l_body": octets(link.body for link in links),
        "l_digest": octets(link.digest for link in links),
        **_after(
            _summed(postings),
            tuple(quotas.values()),
            tuple({row[:2]: row for posting in postings for row in posting.demand}.values()),
            events,
            [event.value for event in events],
        ),
        "batches": octets(batch.batch for batch in batches),
        "rest": _as_json(rest),
    }


def _summed(postings: Sequence[Posting]) -> Mapping[str, Balances]:
    """What each path gains from all of them."""
    sums: dict[str, list[int]] = {}
    for posting in postings:
        for path, change in posting.changes.items():
            gained = sums.setdefault(path, [0, 0, 0, 0])
            gained[0] += change.debits_pending
            gained[1] += change.debits_posted
            gained[2] += change.credits_pending
            gained[3] += change.credits_posted
    return {
        path: Balances(
            debits_pending=gained[0], debits_posted=gained[1], credits_pending=gained[2], credits_posted=gained[3]
        )
        for path, gained in sums.items()
    }


def _after(
    changes: Mapping[str, Balances],
    quotas: Sequence[QuotaAfter],
    demand: Sequence[tuple[GatewayId, AccountId, Demand]],
    events: Sequence[Event],
    values: Sequence[bytes],
) -> dict[str, str]:
    """Rows after, each once, and the outbox; ``values`` are of the events."""
    return {
        "a_path": names(changes),
        "a_debits_pending": numbers(change.debits_pending for change in changes.values()),
        "a_debits_posted": numbers(change.debits_posted for change in changes.values()),
        "a_credits_pending": numbers(change.credits_pending for change in changes.values()),
        "a_credits_posted": numbers(change.credits_posted for change in changes.values()),
        "q_id": names(quota.quota_id for quota in quotas),
        "q_posted": numbers(quota.posted_micros for quota in quotas),
        "q_voided": numbers(quota.voided_micros for quota in quotas),
        "q_status": names(quota.status for quota in quotas),
        "d_gateway": names(gateway_id for gateway_id, _, _ in demand),
        "d_account": names(account_id for _, account_id, _ in demand),
        "d_micros": numbers(spent.micros for _, _, spent in demand),
        "d_at_us": numbers(spent.at for _, _, spent in demand),
        "e_kind": names(event.kind for event in events),
        "e_key": names(event.key for event in events),
        "e_value": octets(values),
        "e_traceparent": texts(event.traceparent for event in events),
    }


def _as_json(rest: Mapping[str, Any]) -> str:
    return json.dumps({table: rows for table, rows in rest.items() if rows})


def _places(values: Iterable[Any]) -> dict[Any, str]:
    """Each value once, with its place, from 1, as it is written: once for all that name it."""
    return {value: str(place) for place, value in enumerate(dict.fromkeys(values), 1)}


def _sorts(
    kinds: Sequence[TransferKind], causes: Sequence[Cause]
) -> tuple[dict[tuple[TransferKind, Cause], str], Iterable[str]]:
    """Each kind and cause once, with its place, from 1; and the place of each transfer's."""
    places = _places(zip(kinds, causes, strict=True))
    return places, map(places.__getitem__, zip(kinds, causes, strict=True))


def _with_case_id(value: bytes, case_id: int) -> bytes:
    opened = events_pb2.CaseOpened.FromString(value)
    opened.case_id = case_id
    return opened.SerializeToString()


def _rest(posting: Posting, case_ids: Sequence[int]) -> dict[str, Any]:
    """The rows there are few of, by table."""
    rest: dict[str, Any] = {
        "payers": [
            {
                "account_id": payer.account_id,
                "status": payer.status.value,
                "credit_limit_micros": payer.credit_limit_micros,
                "debt_limit_micros": payer.debt_limit_micros,
                "preload_micros": payer.preload_micros,
            }
            for payer in posting.payers
        ],
        "gateways": [_gateway(gateway) for gateway in posting.gateways],
        "quotas": [
            {
                "quota_id": quota.quota_id,
                "gateway_id": quota.gateway_id,
                "incarnation": quota.incarnation,
                "account_id": quota.account_id,
                "amount_micros": quota.amount_micros,
                "status": quota.status.value,
                "spend_until_us": quota.spend_until,
                "report_until_us": quota.report_until,
                "request_counter": quota.request_counter,
            }
            for quota in posting.quotas_granted
        ],
        "cases": [
            {
                "id": case_id,
                "kind": case.kind.value,
                "site_id": case.asides[0].site_id if case.asides else _site_of(posting),
                "device_id": case.device_id,
                "authorization_id": hexed(case.authorization_id),
                "other_authorization_id": hexed(case.other_authorization_id),
                "missing_micros": case.missing_micros,
                "detail": case.detail,
            }
            for case_id, case in zip(case_ids, posting.cases, strict=True)
            if case.case_id is None
        ],
        "asides": [
            {
                "case_id": case_id,
                "gateway_id": aside.gateway_id,
                "incarnation": aside.incarnation,
                "sequence": aside.sequence,
                "line": aside.line,
                "account_id": aside.account_id,
                "site_id": aside.site_id,
                "rate_ppm": aside.rate_ppm,
                "net_micros": aside.net_micros,
                "tax_micros": aside.tax_micros,
            }
            for case_id, case in zip(case_ids, posting.cases, strict=True)
            for aside in case.asides
        ],
        "directives": [
            {
                "gateway_id": row.gateway_id,
                "version": row.version,
                "previous_hash": hexed(row.previous_hash),
                "body": hexed(row.body),
                "body_hash": hexed(row.body_hash),
                "idempotency_key": row.idempotency_key or None,
            }
            for row in posting.directives
        ],
        "floors": [
            {"gateway_id": gateway_id, "account_id": account_id, "spent_micros": micros}
            for gateway_id, account_id, micros in posting.floors
        ],
        "told": [{"gateway_id": gateway_id, "account_id": account_id} for gateway_id, account_id in posting.told],
        "released": [
            {
                "gateway_id": released.gateway_id,
                "incarnation": released.incarnation,
                "sequence": released.sequence,
                "net_micros": released.net_micros,
            }
            for released in posting.released
        ],
        **_incarnation_rest(posting),
    }
    if posting.chain is not None:
        rest["chains"] = [_chain(*posting.chain)]
    if posting.case_decided is not None:
        decided = posting.case_decided
        rest["decided"] = [{"case_id": decided.case_id, "status": decided.status.value}]
    requests = [posting.quota_request] if posting.quota_request is not None else []
    requests += posting.requests_shown
    if requests:
        rest["requests"] = [
            {
                "gateway_id": gateway_id,
                "incarnation": incarnation,
                "counter": answered.counter,
                "account_id": answered.account_id,
                "wanted_micros": answered.wanted_micros,
                "answer": answered.answer,
                "quota_id": answered.quota_id,
                "amount_micros": answered.amount_micros,
            }
            for gateway_id, incarnation, answered in requests
        ]
    if posting.payment is not None:
        payment = posting.payment
        rest["payments"] = [
            {
                "payment_id": payment.payment_id,
                "account_id": payment.account_id,
                "amount_micros": payment.amount_micros,
                "source": payment.source,
            }
        ]
    if posting.window_closed is not None:
        closed = posting.window_closed
        rest["closings"] = [
            {"closed": closed.window, "next_window": closed.next_window, "answer": hexed(closed.answer)}
        ]
    if posting.proven is not None:
        proven = posting.proven
        rest["proven"] = [
            {"gateway_id": proven.gateway_id, "incarnation": proven.incarnation, "sequence": proven.sequence}
        ]
    return rest


def _gateway(gateway: Gateway) -> dict[str, Any]:
    return {
        "gateway_id": gateway.gateway_id,
        "operator_id": gateway.operator_id,
        "site_id": gateway.site_id,
        "currency": gateway.currency,
        "exposure_micros": gateway.exposure_micros,
        "beyond_micros": gateway.beyond_micros,
        "floor_micros": gateway.floor_micros,
        "incarnation": gateway.incarnation,
        "adopted": gateway.adopted,
        "quarantined": gateway.quarantined,
        "directive_version": gateway.directive_version,
        "directive_hash": hexed(gateway.directive_hash),
        "time_zone": gateway.time_zone,
        "batch_key": hexed(gateway.batch_key),
        "grant_key": hexed(gateway.grant_key),
        "witness_start_id": hexed(gateway.witness_start_id),
        "witness_position": gateway.witness_position,
        "contact_at_us": gateway.contact_at,
        "sealed_sequence": gateway.sealed_sequence,
        "late_micros": gateway.late_micros,
        "waits_because": gateway.waits_because,
        "waits_start_id": hexed(gateway.waits_start_id),
    }


def _chain(gateway_id: GatewayId, chain: Chain) -> dict[str, Any]:
    return {
        "gateway_id": gateway_id,
        "incarnation": chain.incarnation,
        "sequence": chain.sequence,
        "head_hash": hexed(chain.head_hash),
        "proven_sequence": chain.proven_sequence,
    }


def _batch(added: BatchAdded) -> dict[str, Any]:
    return {
        "batch_hash": hexed(added.batch_hash),
        "gateway_id": added.gateway_id,
        "incarnation": added.incarnation,
        "sequence": added.sequence,
        "site_id": added.site_id,
        "previous_hash": hexed(added.previous_hash),
        "signature": hexed(added.signature),
        "key_id": hexed(added.key_id),
        "start_id": hexed(added.start_id),
        "first_position": added.first_position,
        "last_position": added.last_position,
        "directive_version": added.directive_version,
        "sealed_at_us": added.sealed_at,
        "merkle_root": hexed(added.merkle_root),
        "leaf_count": added.leaf_count,
        "lines": added.lines,
        "claims": added.claims,
        "due_micros": added.due_micros,
        "net_micros": added.net_micros,
        "tax_micros": added.tax_micros,
        "aside_micros": added.aside_micros,
        "parked_micros": added.parked_micros,
        "beyond_micros": added.beyond_micros,
        "proven": added.proven,
        "floor": dict(added.floor),
        "clearing_micros": added.clearing_micros,
        "parked_statements": added.parked_statements,
        "carried": [
            {
                "authorization_id": claim.authorization_id.hex(),
                "gateway_id": claim.gateway_id,
                "register_to": claim.register_to,
                "net_micros": claim.net_micros,
                "tax_micros": claim.tax_micros,
            }
            for claim in added.carried
        ],
    }


def _parked(parked: Parked) -> dict[str, Any]:
    return {
        "line": parked.line,
        "reason": parked.reason,
        "net_micros": parked.net_micros,
        "tax_micros": parked.tax_micros,
    }


def _incarnation_rest(posting: Posting) -> dict[str, Any]:
    """Rows of incarnations and silence."""
    rest: dict[str, Any] = {
        "carried_claims": [
            {
                "authorization_id": hexed(claim.authorization_id),
                "device_id": claim.register.device_id,
                "register_id": claim.register.register_id,
                "register_epoch": claim.register.register_epoch,
                "register_from": claim.register_from,
                "register_to": claim.register_to,
                "net_micros": claim.net_micros,
                "tax_micros": claim.tax_micros,
                "final": claim.final,
                "aside": claim.aside,
                "gateway_id": claim.gateway_id,
                "incarnation": claim.incarnation,
                "sequence": claim.sequence,
                "raised_by": claim.raised_by,
            }
            for claim in posting.claims
            if claim.raised_by is not None
        ],
        "in_use": [{"quota_id": quota_id, "at_us": at} for quota_id, at in posting.in_use],
        "gateway_cases": [_gateway_case(case) for case in posting.gateway_cases],
        "gateway_cases_closed": [_gateway_case(case) for case in posting.gateway_cases_closed],
    }
    if posting.proposed is not None:
        proposed = posting.proposed
        rest["proposed"] = [
            {
                "decision_id": proposed.decision_id,
                "kind": proposed.kind.value,
                "gateway_id": proposed.gateway_id or None,
                "incarnation": proposed.incarnation,
                "reason": proposed.reason,
                "content": hexed(proposed.content),
                "content_hash": hexed(proposed.content_hash),
                "proposed_by": proposed.proposed_by,
                "proposed_at_us": proposed.proposed_at,
            }
        ]
    if posting.approved is not None:
        approved = posting.approved
        rest["approved"] = [
            {
                "decision_id": approved.decision_id,
                "approved_by": approved.approved_by,
                "approved_at_us": approved.approved_at,
            }
        ]
    return rest


def _gateway_case(case: GatewayCase) -> dict[str, Any]:
    return {
        "gateway_id": case.gateway_id,
        "incarnation": case.incarnation,
        "kind": case.kind.value,
        "detail": case.detail,
    }


def _site_of(posting: Posting) -> str:
    return posting.batch.site_id if posting.batch is not None else ""
