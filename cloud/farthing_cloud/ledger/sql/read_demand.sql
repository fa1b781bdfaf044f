SELECT gateway_id, account_id, micros, at_us
FROM demand
WHERE gateway_id = ANY (%(gateway_ids)s::text[]) AND account_id = ANY (%(account_ids)s::text[])
