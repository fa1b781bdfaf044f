"""How a service follows the ledger's outbox: at least once in, exactly once in effect."""
