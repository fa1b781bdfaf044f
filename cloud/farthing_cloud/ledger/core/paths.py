"""The names of ledger accounts, per operator and currency (DESIGN 7)."""

from farthing.money import rate_name

RISK = "risk"
#: The operator's own money.
OWN = "operator/own"


def payer(account_id: str) -> str:
    """Who pays: credits are funds, debits what was spent, pending debits what is held."""
    return f"payer/{account_id}"


def debt(account_id: str) -> str:
    """What an account owes: debits minus credits."""
    return f"debt/{account_id}"


def quota(gateway_id: str) -> str:
    """The other side of a gateway's holds: pending only."""
    return f"quota/{gateway_id}"


def clearing(site_id: str, window: str) -> str:
    """What a site earned in a window, before it is split."""
    return f"clearing/{site_id}/{window}"


def tax(rate_ppm: int) -> str:
    """Tax at one rate: known at posting, never split."""
    return f"tax/{rate_name(rate_ppm)}"


def suspense(site_id: str) -> str:
    """Claimed, and set aside until a case is decided; the other side is :func:`unearned`."""
    return f"suspense/{site_id}"


def unearned(site_id: str) -> str:
    """The other side of :func:`suspense`."""
    return f"unearned/{site_id}"


def transit(payback_id: str) -> str:
    """Paid back, and on its way: the bank has not said yet that it left."""
    return f"transit/{payback_id}"


def dispute(dispute_id: str) -> str:
    """Set aside from those a use was split to, while it is disputed."""
    return f"dispute/{dispute_id}"
