INSERT INTO wish (gateway_id, subject, request) VALUES (%(gateway_id)s, %(subject)s, %(request)s)
