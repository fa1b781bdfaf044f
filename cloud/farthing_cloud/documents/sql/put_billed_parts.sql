INSERT INTO billed_part (operator_id, account_id, position, line, authorization_id, root_number, line_number, net_micros, tax_micros)
SELECT %(operator_id)s, %(account_id)s, n.position, n.line, n.authorization_id, %(root_number)s, n.line_number, n.net, n.tax
FROM unnest(%(positions)s::bigint[], %(lines)s::integer[], %(authorizations)s::bytea[], %(line_numbers)s::integer[],
    %(nets)s::bigint[], %(taxes)s::bigint[]) AS n (position, line, authorization_id, line_number, net, tax);
