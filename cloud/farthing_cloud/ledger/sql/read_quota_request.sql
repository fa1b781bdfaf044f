SELECT q.counter, q.account_id, q.wanted_micros, q.answer, q.quota_id, q.amount_micros
FROM quota_requests q
WHERE q.gateway_id = %(gateway_id)s AND q.incarnation = %(incarnation)s AND q.counter = %(counter)s
