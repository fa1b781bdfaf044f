SELECT DISTINCT incarnation FROM batches WHERE incarnation < ? ORDER BY incarnation;
