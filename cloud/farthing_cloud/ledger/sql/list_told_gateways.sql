SELECT gateway_id, incarnation, quarantined, floor_micros FROM gateways ORDER BY gateway_id
