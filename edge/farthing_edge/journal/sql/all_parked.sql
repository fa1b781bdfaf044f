SELECT at_us, what, body, fault FROM parked ORDER BY id;
