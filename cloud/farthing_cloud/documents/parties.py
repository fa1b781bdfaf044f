"""Who sells and who buys, as a document names them.

Rule 1: the operator sells: payers have their accounts with it, and agencies get shares of its revenue.
Rule 2: what a document said of its parties stays; a change is for the documents after it.
"""

import re
from dataclasses import dataclass

from farthing.ids import IdError, parse_id

#: A line of an address; what is longer is no address.
MAX_TEXT = 200
#: Numbers are prefix and six digits or more: together no longer than what people read out.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]{0,19}\Z")
#: Two letters of the country and what its tax office gives (EN 16931 BT-31, BT-48).
_VAT_ID = re.compile(r"[A-Z]{2}[A-Za-z0-9+*]{2,13}\Z")
_COUNTRY = re.compile(r"[A-Z]{2}\Z")


class PartyError(ValueError):
    """A party that no document may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a party is. ``country`` is ISO 3166-1 alpha-2; empty texts are left out."""

    street: str
    city: str
    postcode: str
    country: str

    def __post_init__(self) -> None:
        for name in ("street", "city", "postcode"):
            _text(name, getattr(self, name))
        if self.country and not _COUNTRY.match(self.country):
            raise PartyError(f"country: two capital letters (ISO 3166-1), not {self.country!r:.20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """An operator as the seller of what its devices deliver, and how its documents are numbered."""

    operator_id: str
    name: str
    address: Address
    vat_id: str
    invoice_prefix: str
    credit_note_prefix: str

    def __post_init__(self) -> None:
        _id("operator_id", self.operator_id)
        _text("name", self.name, least=1)
        for field in ("street", "city", "country"):
            if not getattr(self.address, field):
                raise PartyError(f"a seller has a {field}")
        if not _VAT_ID.match(self.vat_id):
            raise PartyError(f"vat_id: two letters of the country and 2 to 13 characters, not {self.vat_id!r:.30}")
        for field in ("invoice_prefix", "credit_note_prefix"):
            if not _PREFIX.match(getattr(self, field)):
                raise PartyError(f"{field}: 1 to 20 letters, digits, dots, slashes or hyphens")
        # "A" and "A0" would meet: A + 0000001 is A0 + 000001.
        first, second = self.invoice_prefix, self.credit_note_prefix
        if first[-1].isdigit() or second[-1].isdigit():
            raise PartyError("a prefix does not end in a digit: numbers would run into it")
        if first == second:
            raise PartyError("invoices and credit notes have prefixes of their own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Whom invoices of an account are addressed to."""

    operator_id: str
    account_id: str
    name: str
    address: Address
    vat_id: str

    def __post_init__(self) -> None:
        _id("operator_id", self.operator_id)
        _id("account_id", self.account_id)
        _text("name", self.name, least=1)
        if self.vat_id and not _VAT_ID.match(self.vat_id):
            raise PartyError(f"vat_id: two letters of the country and 2 to 13 characters, not {self.vat_id!r:.30}")


def document_number(prefix: str, ordinal: int) -> str:
    """The number of the ``ordinal``-th document of a series, from 1."""
    assert ordinal >= 1
    return f"{prefix}{ordinal:06d}"


def _id(field: str, value: str) -> None:
    try:
        parse_id(value)
    except IdError as err:
        raise PartyError(f"{field}: {err}") from err


def _text(field: str, value: str, *, least: int = 0) -> None:
    if not least <= len(value) <= MAX_TEXT or not (value.isprintable() or not value):
        raise PartyError(f"{field}: {least} to {MAX_TEXT} printable characters")
