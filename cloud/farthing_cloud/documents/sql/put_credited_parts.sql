INSERT INTO credited_part (operator_id, account_id, correction_position, position, line, authorization_id, number, net_micros,
    tax_micros)
SELECT %(operator_id)s, %(account_id)s, n.correction_position, n.position, n.line, n.authorization_id, %(number)s, n.net, n.tax
FROM unnest(%(correction_positions)s::bigint[], %(positions)s::bigint[], %(lines)s::integer[], %(authorizations)s::bytea[],
    %(nets)s::bigint[], %(taxes)s::bigint[]) AS n (correction_position, position, line, authorization_id, net, tax);
