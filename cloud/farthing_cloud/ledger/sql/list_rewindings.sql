SELECT g.gateway_id, g.operator_id, g.epoch, r.shown_at_us, r.directives, r.set_aside, r.quotas, r.reinstated_micros, r.short_micros,
    r.incarnation, r.sequence, r.given_up, coalesce(c.sequence, 0)
FROM gateways g
CROSS JOIN epoch e
LEFT JOIN rewindings r ON r.gateway_id = g.gateway_id AND r.epoch = e.epoch
LEFT JOIN chains c ON c.gateway_id = g.gateway_id AND c.incarnation = r.incarnation
ORDER BY g.operator_id, g.gateway_id
