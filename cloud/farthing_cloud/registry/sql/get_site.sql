SELECT operator_id, content FROM site WHERE site_id = %(site_id)s
