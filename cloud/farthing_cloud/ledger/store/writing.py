"""A posting as the parameters of the call that writes it (``schema/always_post.sql``)."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from farthing.ids import GatewayId
from farthing.v1 import events_pb2
from farthing_cloud.ledger.core import audit
from farthing_cloud.ledger.core.posting import Posting
from farthing_cloud.ledger.core.rows import GatewayCase
from farthing_cloud.ledger.store.arrays import flags, hexed, names, numbers, octets, texts
from farthing_cloud.ledger.store.loading import Places


def arguments(posting: Posting, case_ids: Sequence[int], places: Places) -> dict[str, Any]:
    """A posting as the parameters of ``post``; ``case_ids`` are of its cases, ``places`` of its claims."""
    changes = posting.changes
    transfers = posting.transfers
    digest = audit.digest(transfers)
    # Transfers name accounts, quotas and the rest by their places, from 1.
    kinds, debited, credited, amounts, quota_ids, causes, lines, authorizations = (
        zip(*transfers, strict=True) if transfers else ((),) * 8
    )
    accounts = _places(changes)
    sorts = _places(zip(kinds, causes, strict=True))
    quotas = _places(filter(None, quota_ids))
    authorized = _places(filter(None, authorizations))
    quotas[None] = authorized[None] = 0
    # A claim that another gateway's batch raised is one of a few.
    claims = [claim for claim in posting.claims if claim.raised_by is None]
    claimed, registers, froms, tos, nets, taxes, finals, asides = (
        tuple(zip(*claims, strict=True))[:8] if claims else ((),) * 8
    )
    events = [
        event.value if event.case is None else _with_case_id(event.value, case_ids[event.case])
        for event in posting.events
    ]
    gateway_id = claims[0].gateway_id if claims else GatewayId("")
    return {
        "operator_id": posting.operator_id,
        "currency": posting.currency,
        "kind": posting.kind,
        "subject": audit.subject(posting),
        "posted_at_us": posting.posted_at,
        "business_at_us": posting.business_at,
        "body": audit.link_body(posting, digest),
        "digest": digest,
        "a_path": names(changes),
        "a_debits_pending": numbers(change.debits_pending for change in changes.values()),
        "a_debits_posted": numbers(change.debits_posted for change in changes.values()),
        "a_credits_pending": numbers(change.credits_pending for change in changes.values()),
        "a_credits_posted": numbers(change.credits_posted for change in changes.values()),
        "s_kind": names(kind for kind, _ in sorts),
        "s_cause": names(cause for _, cause in sorts),
        "n_quota": names(filter(None, quotas)),
        "n_authorization": octets(filter(None, authorized)),
        "t_sort": numbers(map(sorts.__getitem__, zip(kinds, causes, strict=True))),
        "t_debit": numbers(map(accounts.__getitem__, debited)),
        "t_credit": numbers(map(accounts.__getitem__, credited)),
        "t_amount": numbers(amounts),
        "t_quota": numbers(map(quotas.__getitem__, quota_ids)),
        "t_line": numbers(-1 if line is None else line for line in lines),
        "t_authorization": numbers(map(authorized.__getitem__, authorizations)),
        "q_id": names(quota.quota_id for quota in posting.quotas),
        "q_posted": numbers(quota.posted_micros for quota in posting.quotas),
        "q_voided": numbers(quota.voided_micros for quota in posting.quotas),
        "q_status": names(quota.status for quota in posting.quotas),
        "c_authorization": octets(claimed),
        "c_register": numbers(map(places.registers.__getitem__, registers)),
        "c_from": numbers(froms),
        "c_to": numbers(tos),
        "c_net": numbers(nets),
        "c_tax": numbers(taxes),
        "c_final": flags(finals),
        "c_aside": flags(asides),
        "c_known": flags((authorization_id, gateway_id) in places.known for authorization_id in claimed),
        "c_gateway": gateway_id,
        "c_incarnation": claims[0].incarnation if claims else 0,
        "c_sequence": claims[0].sequence if claims else 0,
        "d_gateway": names(gateway_id for gateway_id, _, _ in posting.demand),
        "d_account": names(account_id for _, account_id, _ in posting.demand),
        "d_micros": numbers(demand.micros for _, _, demand in posting.demand),
        "d_at_us": numbers(demand.at for _, _, demand in posting.demand),
        "e_kind": names(event.kind for event in posting.events),
        "e_key": names(event.key for event in posting.events),
        "e_value": octets(events),
        "e_traceparent": texts(event.traceparent for event in posting.events),
        "batch": posting.batch.batch if posting.batch is not None else None,
        "rest": json.dumps({table: rows for table, rows in _rest(posting, case_ids).items() if rows}),
    }


def _places(values: Iterable[Any]) -> dict[Any, int]:
    """Each value once, with its place, from 1."""
    return {value: place for place, value in enumerate(dict.fromkeys(values), 1)}


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
        "gateways": [
            {
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
            for gateway in posting.gateways
        ],
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
        gateway_id, chain = posting.chain
        rest["chains"] = [
            {
                "gateway_id": gateway_id,
                "incarnation": chain.incarnation,
                "sequence": chain.sequence,
                "head_hash": hexed(chain.head_hash),
                "proven_sequence": chain.proven_sequence,
            }
        ]
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
    if posting.batch is not None:
        added = posting.batch
        rest["batch"] = {
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
        rest["parked"] = [
            {
                "line": parked.line,
                "reason": parked.reason,
                "net_micros": parked.net_micros,
                "tax_micros": parked.tax_micros,
            }
            for parked in added.parked
        ]
    return rest


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
