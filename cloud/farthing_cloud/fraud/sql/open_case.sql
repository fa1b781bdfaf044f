-- One case for each device key that was copied.
INSERT INTO fraud_case (operator_id, kind, device_id, device_epoch, key_id, opened_at_us)
VALUES (%(operator_id)s, 'clone', %(device_id)s, %(device_epoch)s, %(key_id)s, %(at_us)s)
ON CONFLICT (kind, device_id, device_epoch, key_id) DO UPDATE SET kind = excluded.kind
RETURNING case_id;
