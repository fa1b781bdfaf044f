SELECT content, status
FROM device
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY device_id
