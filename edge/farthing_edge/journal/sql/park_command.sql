INSERT INTO parked (at_us, what, body, fault) SELECT ?, ?, ?, ? WHERE (SELECT count(*) FROM parked) < ?;
