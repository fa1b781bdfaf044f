-- Gapless is proven up to proven_sequence: only what comes after is looked at.
SELECT b.incarnation, b.sequence
FROM chains c
JOIN batches b ON b.gateway_id = c.gateway_id AND b.incarnation = c.incarnation AND b.sequence > c.proven_sequence
WHERE c.gateway_id = %(gateway_id)s AND c.incarnation < %(incarnation)s AND NOT b.proven AND b.leaf_count > 0
ORDER BY b.incarnation, b.sequence
LIMIT %(most)s
