SELECT b.batch FROM batches b
WHERE b.gateway_id = %(gateway_id)s AND b.incarnation = %(incarnation)s AND b.sequence = %(sequence)s
