SELECT c.gateway_id, c.incarnation, c.sequence, c.batch_hash, c.ledger_epoch, c.posted_at_us, c.audit_head, c.parked, r.receipt
FROM receipts r
JOIN receipt_content c USING (batch_hash)
ORDER BY c.batch_id
