SELECT f.gateway_id, f.account_id, f.spent_micros
FROM floors f
WHERE f.gateway_id = ANY (%(gateway_ids)s::text[]) AND f.account_id = ANY (%(account_ids)s::text[])
