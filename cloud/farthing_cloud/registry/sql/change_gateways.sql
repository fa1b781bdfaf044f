UPDATE gateway SET revision = revision + 1 WHERE site_id = %(site_id)s
