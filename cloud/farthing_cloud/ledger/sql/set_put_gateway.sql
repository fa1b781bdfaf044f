UPDATE gateways
SET least_class = %(least_class)s, earlier_grant_keys = %(earlier_keys)s::bytea[], earlier_grant_untils_us = %(earlier_untils_us)s::bigint[]
WHERE gateway_id = %(gateway_id)s
