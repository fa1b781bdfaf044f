SELECT make_transfer_partitions(%(postings)s)
