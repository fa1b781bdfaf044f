-- Receipts carry the head: who writes the audit chain anew finds it in gateways' hands.
SELECT format('batch %%s of %%s, incarnation %%s: its receipt names another head of the audit chain', b.sequence, b.gateway_id, b.incarnation)
FROM batches b
LEFT JOIN postings p ON p.id = b.posting_id
WHERE b.audit_head IS DISTINCT FROM p.head
ORDER BY b.id
LIMIT 1
