SELECT size, ledger_epoch, source_transaction_id, source_sequence
FROM log WHERE name = %(log)s
