SELECT p.id, p.position, p.posted_at_us FROM postings p WHERE p.id = ANY (%(posting_ids)s::bigint[])
