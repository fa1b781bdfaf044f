SELECT operator_id, currency
FROM books
ORDER BY operator_id, currency
FOR UPDATE
