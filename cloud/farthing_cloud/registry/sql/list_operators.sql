SELECT content FROM operator ORDER BY operator_id
