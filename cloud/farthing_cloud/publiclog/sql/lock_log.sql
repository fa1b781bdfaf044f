-- One writer at a time, whatever number of processes there are.
SELECT size, ledger_epoch, source_transaction_id, source_sequence
FROM log WHERE name = %(log)s
FOR UPDATE
