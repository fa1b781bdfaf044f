UPDATE log SET source_transaction_id = %(transaction_id)s, source_sequence = %(sequence)s
WHERE name = %(log)s
