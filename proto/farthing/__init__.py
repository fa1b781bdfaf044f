"""The contract: what two parties must agree on, byte for byte and rule for rule."""
