-- How many postings find their partition, from now on.
SELECT coalesce(max(p.end_posting), 1) - 1 - coalesce((SELECT max(o.id) FROM postings o), 0) FROM transfer_partitions p
