-- What a restored ledger had given back before stays so: its batches are still to be proven again.
UPDATE floors f SET spent_micros = least(f.spent_micros, 0)
FROM gateways g
WHERE g.gateway_id = f.gateway_id AND g.operator_id = %(operator_id)s AND f.account_id = ANY (%(account_ids)s::text[])
