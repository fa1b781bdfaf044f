"""Where the ledger keeps its rows: PostgreSQL, or memory for simulation; both pass the same contract tests."""
