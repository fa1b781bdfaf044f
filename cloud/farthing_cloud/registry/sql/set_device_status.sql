UPDATE device SET status = %(status)s WHERE device_id = %(device_id)s
