INSERT INTO token (token_id, operator_id, lookup, account_id, label, sealed)
VALUES (%(token_id)s, %(operator_id)s, %(lookup)s, %(account_id)s, %(label)s, %(sealed)s)
