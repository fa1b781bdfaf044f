SELECT gateway_id, operator_id, site_id, currency, exposure_micros, beyond_micros, floor_micros, incarnation, adopted, quarantined,
    directive_version, directive_hash, time_zone, batch_key, grant_key, witness_start_id, witness_position, contact_at_us,
    sealed_sequence, late_micros, waits_because, waits_start_id, epoch, least_class, earlier_grant_keys,
    earlier_grant_untils_us
FROM gateways
WHERE gateway_id = %(gateway_id)s
