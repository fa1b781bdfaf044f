SELECT format('operator %%s: the claims add up to %%s, the batches to %%s', coalesce(c.operator_id, b.operator_id),
    coalesce(c.total, 0), coalesce(b.total, 0))
FROM (SELECT operator_id, sum(net_micros + tax_micros) AS total FROM claims GROUP BY operator_id) AS c
FULL JOIN (SELECT operator_id, sum(due_micros) AS total FROM batches GROUP BY operator_id) AS b USING (operator_id)
WHERE coalesce(c.total, 0) <> coalesce(b.total, 0)
LIMIT 1
