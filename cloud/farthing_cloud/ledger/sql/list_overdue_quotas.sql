SELECT q.gateway_id, q.quota_id
FROM quotas q
JOIN gateways g ON g.gateway_id = q.gateway_id
LEFT JOIN chains c ON c.gateway_id = g.gateway_id AND c.incarnation = g.incarnation
WHERE q.status <> 'closed' AND q.report_until_us < %(now_us)s
    AND (%(now_us)s - g.contact_at_us > %(outage_us)s
        OR q.incarnation <> g.incarnation
        OR (g.sealed_sequence <= coalesce(c.sequence, 0) AND q.in_use_at_us IS NULL))
ORDER BY q.report_until_us, q.quota_id
LIMIT %(limit)s
