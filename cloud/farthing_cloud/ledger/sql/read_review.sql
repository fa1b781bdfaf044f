SELECT review_id, operator_id, currency, gateway_id, content, content_hash, proposed_by, proposed_at_us, approved_by, approved_at_us
FROM import_reviews
WHERE review_id = %(review_id)s
