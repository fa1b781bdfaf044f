INSERT INTO overlap (operator_id, ledger_case_id, device_id, authorization_id, other_authorization_id, aside_micros)
VALUES (%(operator_id)s, %(ledger_case_id)s, %(device_id)s, %(authorization_id)s, %(other_authorization_id)s, %(aside_micros)s)
ON CONFLICT (operator_id, ledger_case_id) DO UPDATE
SET aside_micros = greatest(overlap.aside_micros, excluded.aside_micros);
