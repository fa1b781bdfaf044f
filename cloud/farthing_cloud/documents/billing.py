"""What the ledger billed to one account and gave back, as documents take it over.

Rule: amounts are the account's own (what it paid or owes); a key names each for ever, so that it stands on one document only.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """A part of what was billed: its place in the ledger's audit chain, its line there (below 0: none), and then the authorization."""

    position: int
    line: int
    authorization_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """One line of the ledger; micros. ``quarter``: of an hour since 1970, UTC; 0 where the ledger names none."""

    key: Key
    site_id: str
    tariff_id: str
    tariff_version: int
    rate_ppm: int
    evidence: str
    quarter: int
    net_micros: int
    tax_micros: int
    debt_micros: int
    posted_at_us: int
    authorization_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """What a correction gave back of one billed part; micros."""

    position: int
    correction_id: str
    kind: str
    reason: str
    of: Key
    authorization_id: bytes
    net_micros: int
    tax_micros: int
    posted_at_us: int
