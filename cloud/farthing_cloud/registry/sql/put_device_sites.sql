INSERT INTO device_site (device_id, site_id, present)
SELECT %(device_id)s, wanted.site_id, true FROM unnest(%(site_ids)s::text[]) AS wanted (site_id)
ON CONFLICT (device_id, site_id) DO UPDATE SET present = true
