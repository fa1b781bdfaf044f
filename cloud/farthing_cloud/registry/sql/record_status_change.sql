INSERT INTO status_change (kind, id, old_status, new_status, reason, caller, at_us)
VALUES (%(kind)s, %(id)s, %(old_status)s, %(new_status)s, %(reason)s, %(caller)s, %(at_us)s)
