SELECT (SELECT count(*) FROM transfers), (SELECT count(*) FROM accounts), (SELECT count(*) FROM batches)
