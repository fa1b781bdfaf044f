SELECT authorization_id, gateway_id, device_id, first_at_us, last_at_us, code FROM session
WHERE operator_id = %(operator_id)s AND code = %(code)s AND code <> ''
ORDER BY first_at_us, authorization_id, gateway_id LIMIT %(limit)s;
