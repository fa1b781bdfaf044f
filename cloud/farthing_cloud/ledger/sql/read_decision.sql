-- Not locked: a decision is about a gateway, whose row is locked before this, or about all of the ledger, whose books are.
SELECT decision_id, kind, coalesce(gateway_id, ''), incarnation, reason, content, content_hash, proposed_by, proposed_at_us,
    coalesce(approved_by, ''), approved_at_us
FROM decisions
WHERE decision_id = %(decision_id)s AND operator_id = %(operator_id)s AND currency = %(currency)s
