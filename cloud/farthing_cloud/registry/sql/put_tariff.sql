INSERT INTO tariff (operator_id, tariff_id, version, content)
VALUES (%(operator_id)s, %(tariff_id)s, %(version)s, %(content)s)
