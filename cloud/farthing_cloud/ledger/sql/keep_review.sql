INSERT INTO import_reviews (review_id, operator_id, currency, gateway_id, content, content_hash, proposed_by, proposed_at_us)
VALUES (%(review_id)s, %(operator_id)s, %(currency)s, %(gateway_id)s, %(content)s, %(content_hash)s, %(proposed_by)s, %(proposed_at_us)s)
