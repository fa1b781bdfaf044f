"""Registry and vault on real parts, beside a ledger that only keeps directives."""

from back_office_parts import back_office, parties, tokens

__all__ = ["back_office", "parties", "tokens"]
