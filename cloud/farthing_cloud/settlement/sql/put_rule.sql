WITH rule AS (
    INSERT INTO split_rule (operator_id, site_id, version, remainder_path, effective_from_us)
    VALUES (%(operator_id)s, %(site_id)s, %(version)s, %(remainder_path)s, %(effective_from_us)s)
)
INSERT INTO split_part (operator_id, site_id, version, path, share_ppm)
SELECT %(operator_id)s, %(site_id)s, %(version)s, path, share_ppm
FROM unnest(%(paths)s::text[], %(shares_ppm)s::integer[]) AS part (path, share_ppm);
