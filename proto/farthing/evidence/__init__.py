"""What proves a batch: its leaves, their Merkle tree, and the rules anyone can check from public keys alone."""
