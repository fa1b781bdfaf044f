SELECT DISTINCT gateway_id FROM wish WHERE parked_reason IS NULL ORDER BY gateway_id
