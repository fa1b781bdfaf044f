INSERT INTO devices (device_id, position, status) VALUES (?, ?, ?)
ON CONFLICT (device_id) DO UPDATE SET position = excluded.position, status = excluded.status;
