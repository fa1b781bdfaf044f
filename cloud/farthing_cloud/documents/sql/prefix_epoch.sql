-- When a prefix was first chosen; NULL for one that nobody chose.
SELECT min(s.ledger_epoch) AS ledger_epoch
FROM seller s
WHERE s.operator_id = %(operator_id)s AND %(prefix)s IN (s.invoice_prefix, s.credit_note_prefix);
