SELECT epoch FROM site_key WHERE site_id = %(site_id)s
