UPDATE audit SET outcome = %(outcome)s, detail = %(detail)s
WHERE batch_hash = %(batch_hash)s AND outcome = 'waits'
