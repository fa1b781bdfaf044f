SELECT first_cose, second_cose, first_gateway_id, second_gateway_id, device_epoch, counter
FROM proof WHERE case_id = %(case_id)s ORDER BY arrival LIMIT 1;
