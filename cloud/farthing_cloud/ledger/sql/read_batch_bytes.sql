SELECT b.batch FROM batches b WHERE b.batch_hash = %(batch_hash)s
