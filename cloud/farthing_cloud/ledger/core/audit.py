"""The audit chain: one per operator, each posting a link, so that nothing posted can be changed, added or taken out unseen.

head = SHA-256(head before ‖ "operator|currency|kind|subject|posted|business|" ‖ digest), digest = SHA-256 over one line of
text for each transfer, in order. The same text is written in SQL by ``verify``.
"""

import hashlib
from collections.abc import Iterable

from farthing.evidence import classes
from farthing_cloud.ledger.core.posting import Posting, Transfer
from farthing_cloud.ledger.core.rows import Gateway, Payer


def digest(transfers: Iterable[Transfer]) -> bytes:
    """SHA-256 over the transfers' content."""
    # Thousands of times: joined, not formatted. A member of a StrEnum is its value.
    rows = [
        "|".join(
            (
                kind,
                debit,
                credit,
                str(amount),
                quota_id or "",
                cause,
                "" if line is None else str(line),
                authorization_id.hex() if authorization_id else "",
            )
        )
        for kind, debit, credit, amount, quota_id, cause, line, authorization_id in transfers
    ]
    # Each ends its line.
    rows.append("")
    return hashlib.sha256("\n".join(rows).encode()).digest()


def subject(posting: Posting) -> str:
    """What a posting is about: the batch's hash, the payment, the quota, the case, the window, the decision, plan or correction and its person,

    the gateway that was revoked, or that waits for people or does so no more, with the hash of why; the account or gateway with the hash of
    its terms. (A correction that closes an account leaves it none.)
    """
    if posting.batch is not None:
        return posting.batch.batch_hash.hex()
    if posting.payment is not None:
        return posting.payment.payment_id
    if posting.quota_request is not None:
        gateway_id, incarnation, answered = posting.quota_request
        return f"{gateway_id}/{incarnation}/{answered.counter}"
    if posting.case_decided is not None:
        return str(posting.case_decided.case_id)
    if posting.window_closed is not None:
        return posting.window_closed.window
    if posting.proposed is not None:
        return f"{posting.proposed.decision_id}/{posting.proposed.content_hash.hex()}/{posting.proposed.proposed_by}"
    if posting.approved is not None:
        return f"{posting.approved.decision_id}/{posting.approved.content_hash.hex()}/{posting.approved.approved_by}"
    if posting.planned is not None:
        return f"{posting.planned.plan_id}/{posting.planned.content_hash.hex()}/{posting.planned.planned_by}"
    if posting.plan_approved is not None:
        approved = posting.plan_approved
        return f"{approved.plan_id}/{approved.content_hash.hex()}/{approved.approved_by}"
    if posting.imported is not None:
        return f"{posting.imported.gateway_id}/{posting.imported.file_hash.hex()}/{posting.imported.person}"
    if posting.review is not None:
        review = posting.review
        return f"{review.review_id}/{review.content_hash.hex()}/{review.approved_by or review.proposed_by}"
    if posting.proven is not None:
        return f"{posting.proven.gateway_id}/{posting.proven.incarnation}/{posting.proven.sequence}"
    if posting.epoch_begun is not None:
        return "{}/{}".format(*posting.epoch_begun)
    if posting.rewinding is not None:
        return f"{posting.rewinding.gateway_id}/{posting.rewinding.epoch}"
    if posting.correction is not None:
        correction = posting.correction
        content_hash = hashlib.sha256(correction.content).hexdigest()
        return f"{correction.correction_id}/{content_hash}/{correction.person}"
    if posting.revoked is not None:
        return posting.revoked
    if posting.kind == "account":
        (payer,) = posting.payers
        return f"{payer.account_id}/{_terms_hash(_terms_of_payer(payer, posting.currency))}"
    if posting.kind == "gateway":
        (gateway,) = posting.gateways
        return f"{gateway.gateway_id}/{_terms_hash(_terms_of_gateway(gateway))}"
    if posting.kind == "gateway-case":
        (gateway,) = posting.gateways
        return f"{gateway.gateway_id}/{gateway.incarnation}/{_waiting_hash(gateway)}"
    return ""


def _waiting_hash(gateway: Gateway) -> str:
    """Why it waits, and which start did not agree; empty for one that does not wait."""
    if not gateway.waits_because:
        return ""
    return _terms_hash((gateway.waits_because, gateway.waits_start_id.hex()))


def _terms_of_payer(payer: Payer, currency: str) -> tuple[object, ...]:
    return (
        payer.account_id,
        currency,
        payer.status,
        payer.credit_limit_micros,
        payer.debt_limit_micros,
        payer.preload_micros,
    )


def _terms_of_gateway(gateway: Gateway) -> tuple[object, ...]:
    return (
        gateway.gateway_id,
        gateway.site_id,
        gateway.currency,
        gateway.exposure_micros,
        gateway.time_zone,
        gateway.batch_key.hex(),
        gateway.grant_key.hex(),
        # Named where it is not the strongest: what was set before there was a choice has the hash it had.
        *((gateway.least_class,) if gateway.least_class != classes.DEVICE_SIGNED else ()),
        # As rare: none has one before its first change.
        *(
            (",".join(f"{each.key.hex()}:{each.until}" for each in gateway.earlier_grant_keys),)
            if gateway.earlier_grant_keys
            else ()
        ),
    )


def _terms_hash(terms: tuple[object, ...]) -> str:
    return hashlib.sha256("|".join(map(str, terms)).encode()).hexdigest()


def link_body(posting: Posting, digest_of_transfers: bytes | None = None) -> bytes:
    """What the link adds to the head before it; ``digest_of_transfers`` where it is known already."""
    text = (
        f"{posting.operator_id}|{posting.currency}|{posting.kind}|{subject(posting)}|"
        f"{posting.posted_at}|{posting.business_at}|"
    )
    return text.encode() + (digest(posting.transfers) if digest_of_transfers is None else digest_of_transfers)


def next_head(head: bytes, body: bytes) -> bytes:
    """The head after a link."""
    return hashlib.sha256(head + body).digest()
