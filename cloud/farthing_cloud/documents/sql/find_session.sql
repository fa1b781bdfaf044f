SELECT authorization_id, gateway_id, device_id, first_at_us, last_at_us, code FROM session
WHERE operator_id = %(operator_id)s AND authorization_id = %(authorization_id)s AND gateway_id = %(gateway_id)s;
