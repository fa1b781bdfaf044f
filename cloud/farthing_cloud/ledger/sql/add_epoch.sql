INSERT INTO epochs (epoch, decision_id, began_at_us) VALUES (%(epoch)s, %(decision_id)s, %(at_us)s)
