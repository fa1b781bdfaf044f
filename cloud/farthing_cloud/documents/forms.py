"""Documents as JSON: what is stored and sent, byte for byte (docs/documents.md has the fields).

Rule 1: no number is a JSON number where it is money: amounts are decimal text, exact; "exact_" ones have up to six decimals.
Rule 2: terms that EN 16931 has are named as there; what stands beside them is the ledger's.
Rule 3: the same document always gives the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

from farthing.clock import QUARTER_US, SECOND_US, Instant
from farthing.money import PPM, Currency, exact_micros, format_micros, minor_unit_exponent, rate_name
from farthing_cloud.documents.invoices import CreditNote, Invoice, Line, Standing
from farthing_cloud.documents.parties import Address, Buyer, Seller
from farthing_cloud.documents.rounding import RoundedRate, unit_micros
from farthing_cloud.documents.statements import AccountStatement, Figures, totals

#: The schema's name; another one where a field changes its meaning.
SCHEMA: Final = "farthing/payers-document/1"
#: UNTDID 1001, as EN 16931 BT-3 takes it.
TYPE_CODES: Final = {"invoice": "380", "credit-note": "381"}
ROUNDING_RULE: Final = (
    "Summed exactly per VAT rate, then rounded once, half up, to the currency's minor unit; VAT = rounded taxable amount x rate,"
    " rounded (EN 16931 BR-CO-17). Exact amounts are what was posted; rounding moves no money."
)
CREDIT_ROUNDING_RULE: Final = (
    "What the invoice says of what was left before, less what it says of what is left after: credited whole, an invoice and its"
    " credit notes sum to 0. Exact amounts are what was posted; rounding moves no money."
)

Form: TypeAlias = dict[str, Any]


def encode(form: Mapping[str, Any]) -> bytes:
    """The bytes of a document: UTF-8, keys in the order of the form, no spaces."""
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def decode(content: bytes) -> Form:
    """A document's fields; amounts stay text."""
    form = json.loads(content)
    if not isinstance(form, dict) or form.get("schema") != SCHEMA:
        raise ValueError(f"not a document of {SCHEMA}")
    return form


def minor(units: int, currency: Currency) -> str:
    """Whole minor units as decimal text: 1205 cents are "12.05", 1205 yen "1205"."""
    exponent = minor_unit_exponent(currency)
    sign, digits = ("-" if units < 0 else ""), f"{abs(units):0{exponent + 1}d}"
    return sign + (f"{digits[:-exponent]}.{digits[-exponent:]}" if exponent else digits)


def utc(at: int) -> str:
    """An instant, to the microsecond where it has any."""
    return _datetime(at).isoformat().replace("+00:00", "Z")


def local(at: int, time_zone: ZoneInfo) -> str:
    """An instant by a site's wall clock, with its offset."""
    return _datetime(at).astimezone(time_zone).isoformat()


def _datetime(at: int) -> datetime:
    seconds, rest_us = divmod(at, SECOND_US)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_us)


def _head(kind: str, currency: str) -> Form:
    return {"schema": SCHEMA, "kind": kind, "currency": currency}


def _address(address: Address) -> Form:
    return {
        "street": address.street,
        "city": address.city,
        "postcode": address.postcode,
        "country": address.country,
    }


def seller_form(seller: Seller) -> Form:
    """BG-4."""
    return {
        "operator_id": seller.operator_id,
        "name": seller.name,
        "address": _address(seller.address),
        "vat_id": seller.vat_id,
    }


def buyer_form(account_id: str, buyer: Buyer | None) -> Form:
    """BG-7; an account nobody gave a name stands for itself."""
    if buyer is None:
        return {"account_id": account_id, "name": "", "address": None, "vat_id": ""}
    return {
        "account_id": account_id,
        "name": buyer.name,
        "address": _address(buyer.address),
        "vat_id": buyer.vat_id,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What every numbered document says of itself."""

    number: str
    #: SHA-256 of the document before it in its series; empty in the first.
    previous_hash: bytes
    issued_at: Instant
    seller: Seller
    buyer: Buyer | None
    account_id: str
    currency: Currency
    #: (after, to) places of the ledger's audit chain, and the instant that the run was made for.
    after_position: int
    to_position: int
    until: Instant


def invoice_form(heading: Heading, invoice: Invoice, *, replaces: str = "", reason: str = "") -> Form:
    """An invoice, EN 16931's terms beside the ledger's exact figures."""
    currency = heading.currency
    due = (2 * invoice.debt_micros + unit_micros(currency)) // (2 * unit_micros(currency))
    due_minor = min(due, invoice.gross_minor)
    return {
        **_numbered("invoice", heading, names=replaces, reason=reason),
        "lines": line_forms(invoice.lines, invoice.line_minor, currency),
        "vat_breakdown": breakdown(invoice.rates, currency),
        "totals": {
            **totals_form(invoice.rates, invoice.exact_micros, currency),
            "paid_amount": minor(invoice.gross_minor - due_minor, currency),
            "amount_due": minor(due_minor, currency),
            "exact_paid": format_micros(invoice.exact_micros - invoice.debt_micros),
            "exact_due": format_micros(invoice.debt_micros),
        },
        "rounding_rule": ROUNDING_RULE,
    }


def credit_note_form(heading: Heading, note: CreditNote, *, reason: str, cancels: bool = False) -> Form:
    """A credit note: amounts are not negative, its type says which way they go. ``cancels``: all that was left, without a correction."""
    currency = heading.currency
    return {
        **_numbered("credit-note", heading, names=note.of.number, reason=reason),
        "lines": line_forms(note.lines, note.line_minor, currency),
        "vat_breakdown": breakdown(note.rates, currency),
        "totals": totals_form(note.rates, note.exact_micros, currency),
        "cancels": cancels,
        "corrections": [
            {
                "correction_id": each.correction_id,
                "kind": each.kind,
                "reason": each.reason,
                "authorization_id": each.authorization_id.hex(),
                "exact_net_amount": format_micros(each.net_micros),
                "exact_vat_amount": format_micros(each.tax_micros),
                "posted_at": utc(each.posted_at_us),
            }
            for each in note.given_back
        ],
        "rounding_rule": CREDIT_ROUNDING_RULE,
    }


def _numbered(kind: str, heading: Heading, *, names: str, reason: str) -> Form:
    return {
        **_head(kind, heading.currency),
        "type_code": TYPE_CODES[kind],
        "number": heading.number,
        "previous_document_hash": heading.previous_hash.hex(),
        "issued_at": utc(heading.issued_at),
        "issue_date": utc(heading.issued_at)[:10],
        "seller": seller_form(heading.seller),
        "buyer": buyer_form(heading.account_id, heading.buyer),
        # BT-25.
        "preceding_invoice": names,
        "note": reason,
        "ledger": {
            "after_position": heading.after_position,
            "to_position": heading.to_position,
            "posted_before": utc(heading.until),
        },
    }


def line_forms(lines: Sequence[Line], line_minor: Sequence[int], currency: Currency) -> list[Form]:
    """BG-25, with what was booked beside it."""
    return [
        {
            "id": str(line.number),
            "item_name": _item(line),
            "site_id": line.site_id,
            "tariff": {"id": line.tariff_id, "version": line.tariff_version},
            "evidence": line.evidence,
            "used_from": utc(line.first_quarter * QUARTER_US) if line.first_quarter else None,
            "used_until": utc((line.last_quarter + 1) * QUARTER_US) if line.last_quarter else None,
            # A use's price follows from its tariff, not from one unit price: the line is one piece.
            "quantity": "1",
            "unit_code": "C62",
            "vat_rate": rate_name(line.rate_ppm),
            "net_amount": minor(units, currency),
            "exact_net_amount": format_micros(line.net_micros),
            "exact_vat_amount": format_micros(line.tax_micros),
            "uses": [each.hex() for each in line.authorization_ids],
        }
        for line, units in zip(lines, line_minor, strict=True)
    ]


def _item(line: Line) -> str:
    tariff = f"tariff {line.tariff_id} version {line.tariff_version}" if line.tariff_id else "use"
    return f"{tariff} at {line.site_id}"


def breakdown(rates: Sequence[RoundedRate], currency: Currency) -> list[Form]:
    """BG-23, with what was booked beside it."""
    return [
        {
            "vat_rate": rate_name(rate.rate_ppm),
            "category": "S" if rate.rate_ppm else "Z",
            "taxable_amount": minor(rate.taxable_minor, currency),
            "vat_amount": minor(rate.tax_minor, currency),
            "exact_taxable_amount": format_micros(rate.net_micros),
            "exact_vat_amount": format_micros(rate.tax_micros),
            "rounding_difference": format_micros(
                rate.gross_minor * unit_micros(currency) - rate.net_micros - rate.tax_micros
            ),
        }
        for rate in rates
    ]


def totals_form(rates: Sequence[RoundedRate], exact_micros: int, currency: Currency) -> Form:
    """BG-22, with what was booked beside it; the difference is what rounding added."""
    net = sum(rate.taxable_minor for rate in rates)
    tax = sum(rate.tax_minor for rate in rates)
    return {
        "net_amount": minor(net, currency),
        "vat_amount": minor(tax, currency),
        "gross_amount": minor(net + tax, currency),
        "exact_net_amount": format_micros(sum(rate.net_micros for rate in rates)),
        "exact_vat_amount": format_micros(sum(rate.tax_micros for rate in rates)),
        "exact_gross_amount": format_micros(exact_micros),
        "rounding_difference": format_micros((net + tax) * unit_micros(currency) - exact_micros),
    }


def lines_from(form: Mapping[str, Any]) -> tuple[Line, ...]:
    """The lines of a stored invoice or credit note, exact again."""
    return tuple(
        Line(
            number=int(line["id"]),
            site_id=line["site_id"],
            tariff_id=line["tariff"]["id"],
            tariff_version=line["tariff"]["version"],
            rate_ppm=int(Decimal(line["vat_rate"]) * (PPM // 100)),
            evidence=line["evidence"],
            first_quarter=_quarter(line["used_from"]),
            last_quarter=max(0, _quarter(line["used_until"]) - 1),
            net_micros=exact_micros(line["exact_net_amount"]),
            tax_micros=exact_micros(line["exact_vat_amount"]),
            authorization_ids=tuple(bytes.fromhex(each) for each in line["uses"]),
        )
        for line in form["lines"]
    )


def _quarter(text: str | None) -> int:
    return 0 if text is None else (datetime.fromisoformat(text) - _datetime(0)) // timedelta(minutes=15)


def standing_from(
    number: str, root: str, invoice: Mapping[str, Any], credits_: Sequence[Mapping[str, Any]]
) -> Standing:
    """What is left of a stored invoice after its stored credit notes."""
    taken: dict[int, tuple[int, int]] = {}
    for form in credits_:
        for line in lines_from(form):
            net, tax = taken.get(line.number, (0, 0))
            taken[line.number] = net + line.net_micros, tax + line.tax_micros
    left = []
    for line in lines_from(invoice):
        net, tax = taken.get(line.number, (0, 0))
        left.append(_less(line, net, tax))
    return Standing(number=number, root=root, left=tuple(left))


def _less(line: Line, net_micros: int, tax_micros: int) -> Line:
    return replace(line, net_micros=line.net_micros - net_micros, tax_micros=line.tax_micros - tax_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementHeading:
    """Whose statement, of when."""

    operator_name: str
    account_id: str
    currency: Currency
    from_at: Instant
    until: Instant
    after_position: int
    to_position: int


def statement_form(heading: StatementHeading, statement: AccountStatement) -> Form:
    """An account's statement; exact throughout."""
    return {
        **_head("statement", heading.currency),
        "operator": heading.operator_name,
        "account_id": heading.account_id,
        "posted_from": utc(heading.from_at) if heading.from_at else None,
        "posted_before": utc(heading.until),
        "ledger": {"after_position": heading.after_position, "to_position": heading.to_position},
        "opening": _figures(statement.opening),
        "entries": [
            {
                "position": entry.position,
                "transfers": list(entry.transfer_ids),
                "what": entry.words,
                "cause": entry.cause,
                "reference": entry.subject,
                "posted_at": utc(entry.posted_at_us),
                "happened_at": utc(entry.business_at_us),
                "changed": _figures(entry.changed),
                "after": _figures(entry.after),
            }
            for entry in statement.entries
        ],
        "totals": [{"cause": cause, **_figures(changed)} for cause, changed in totals(statement.entries)],
        "closing": _figures(statement.closing),
    }


def _figures(figures: Figures) -> Form:
    return {
        "balance": format_micros(figures.balance_micros),
        "reserved": format_micros(figures.held_micros),
        "debt": format_micros(figures.debt_micros),
        "available": format_micros(figures.balance_micros - figures.held_micros),
    }
