SELECT EXISTS (SELECT FROM imported_batches i WHERE i.batch_hash = sha256(%(batch)s::bytea))
