SELECT kind, count(*), sum(length(body)) FROM entries GROUP BY kind ORDER BY kind;
