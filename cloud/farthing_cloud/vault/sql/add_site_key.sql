INSERT INTO site_key (site_id, operator_id, epoch) VALUES (%(site_id)s, %(operator_id)s, %(epoch)s)
