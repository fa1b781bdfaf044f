SELECT g.gateway_id, g.operator_id, g.site_id, g.currency, g.exposure_micros, g.beyond_micros, g.floor_micros, g.incarnation, g.adopted,
    g.quarantined, g.directive_version, g.directive_hash, g.time_zone, g.batch_key, g.grant_key, g.witness_start_id,
    g.witness_position, g.contact_at_us, g.sealed_sequence, g.late_micros, g.waits_because, g.waits_start_id, g.epoch,
    g.least_class, g.earlier_grant_keys, g.earlier_grant_untils_us,
    coalesce(a.credits_pending, 0)
FROM gateways g
LEFT JOIN accounts a ON a.operator_id = g.operator_id AND a.currency = g.currency AND a.path = 'quota/' || g.gateway_id
WHERE %(operator_id)s IN ('', g.operator_id)
ORDER BY g.operator_id, g.site_id, g.gateway_id
