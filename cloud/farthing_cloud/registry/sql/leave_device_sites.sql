UPDATE device_site
SET present = false
WHERE device_id = %(device_id)s AND site_id <> ALL(%(site_ids)s::text[])
