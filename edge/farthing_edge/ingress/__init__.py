"""Where devices come in: bytes become statements that somebody provably said, or a refusal with a number."""
