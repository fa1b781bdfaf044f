SELECT count(*) FROM event_parked WHERE consumer = %(consumer)s;
