SELECT content, status FROM device WHERE device_id = %(device_id)s
