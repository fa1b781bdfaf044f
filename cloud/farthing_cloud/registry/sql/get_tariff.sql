SELECT content
FROM tariff
WHERE operator_id = %(operator_id)s AND tariff_id = %(tariff_id)s AND version = %(version)s
