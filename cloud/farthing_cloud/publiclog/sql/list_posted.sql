-- Whose the leaves between two checkpoints are; a batch that was said before was drawn, or not, before.
SELECT p.batch_hash, p.operator_id, p.gateway_id
FROM leaf l
JOIN posted p ON p.batch_hash = l.subject
WHERE l.log = 'batches' AND l.leaf_index >= %(start)s AND l.leaf_index < %(end)s
