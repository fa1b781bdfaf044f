"""Documents as pages: self-contained HTML from their JSON, made to be read and printed.

Rule 1: everything that comes from a document is escaped; there is no script, no font and no picture from elsewhere.
Rule 2: a page says what the JSON says and nothing more: the JSON is the document.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, TypeAlias

Form: TypeAlias = Mapping[str, Any]

TITLES: Final = {
    "invoice": "Invoice",
    "credit-note": "Credit note",
    "receipt": "Receipt",
    "statement": "Account statement",
}

_STYLE: Final = """
:root{--ink:#1b1f24;--soft:#5c6670;--line:#d9dee3;--paper:#fff}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:14px/1.45 system-ui,sans-serif}
main{max-width:860px;margin:0 auto;padding:32px 20px 48px}h1{font-size:24px;margin:0 0 2px}h2{font-size:15px;margin:26px 0 6px}
p{margin:3px 0}.soft,dt,th{color:var(--soft)}.parties{display:flex;gap:48px;flex-wrap:wrap;margin:18px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:8px 0}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:4px 8px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;font-weight:normal}
td.n,th.n{text-align:right;white-space:nowrap}tr.sum td{font-weight:600}footer{margin-top:28px;font-size:12px;color:var(--soft);overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b0;--line:#333b44;--paper:#14181c}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff}main{max-width:none;padding:0}thead{display:table-header-group}tr{break-inside:avoid}}
"""


def render(form: Form) -> str:
    """The page of a document. Raise ``ValueError`` for a kind that has none."""
    bodies = {"invoice": _invoice, "credit-note": _invoice, "receipt": _receipt, "statement": _statement}
    kind = form["kind"]
    if kind not in bodies:
        raise ValueError(f"no page for {kind!r}")
    name = form.get("number") or form.get("receipt_id") or form.get("account_id") or ""
    title = f"{TITLES[kind]} {name or 'draft'}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{bodies[kind](form)}</main></body></html>\n"
    )


def _party(title: str, party: Form) -> str:
    address = party.get("address") or {}
    place = f"{address.get('postcode', '')} {address.get('city', '')}".strip()
    lines = [
        party.get("name") or "",
        address.get("street", ""),
        f"{place} {address.get('country', '')}".strip(),
        f"VAT id {party['vat_id']}" if party.get("vat_id") else "",
        f"Account {party['account_id']}" if party.get("account_id") else "",
    ]
    return (
        f'<div><p class="soft">{escape(title)}</p>'
        + "".join(f"<p>{escape(line)}</p>" for line in lines if line)
        + "</div>"
    )


def _pairs(pairs: Sequence[tuple[str, object]]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs if value not in ("", None)
    )
    return f"<dl>{rows}</dl>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: int, sums: int = 0) -> str:
    """``numbers``: so many columns from the right hold amounts; ``sums``: so many rows from the bottom are totals."""
    first = len(heads) - numbers

    def cell(tag: str, index: int, value: object) -> str:
        return f"<{tag}{' class=n' if index >= first else ''}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", index, text) for index, text in enumerate(heads))
    body = "".join(
        f"<tr{' class=sum' if number >= len(rows) - sums else ''}>"
        + "".join(cell("td", index, value) for index, value in enumerate(row))
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _vat(form: Form) -> str:
    currency = form["currency"]
    rows = [
        (
            f"VAT {each['vat_rate']} %",
            each["taxable_amount"],
            each["vat_amount"],
            each["exact_taxable_amount"],
            each["exact_vat_amount"],
            each["rounding_difference"],
        )
        for each in form["vat_breakdown"]
    ]
    totals = form["totals"]
    rows.append(
        (
            f"Total {currency}",
            totals["net_amount"],
            totals["vat_amount"],
            totals["exact_net_amount"],
            totals["exact_vat_amount"],
            totals["rounding_difference"],
        )
    )
    heads = ("", "Taxable", "VAT", "Taxable, exact", "VAT, exact", "Rounding")
    return "<h2>VAT</h2>" + _table(heads, rows, numbers=5, sums=1)


def _invoice(form: Form) -> str:
    totals, currency = form["totals"], form["currency"]
    ledger = form["ledger"]
    pairs: list[tuple[str, object]] = [
        ("Issued", form["issued_at"]),
        ("Cancels" if form.get("cancels") else "Names invoice", form["preceding_invoice"]),
        ("Reason", form["note"]),
        ("Posted before", ledger["posted_before"]),
    ]
    lines = [
        (
            line["id"],
            line["item_name"],
            f"{line['used_from'] or ''} – {line['used_until'] or ''}" if line["used_from"] else "",
            len(line["uses"]),
            f"{line['vat_rate']} %",
            line["exact_net_amount"],
            line["net_amount"],
        )
        for line in form["lines"]
    ]
    amounts: list[tuple[object, ...]] = [
        ("Net", totals["exact_net_amount"], totals["net_amount"]),
        ("VAT", totals["exact_vat_amount"], totals["vat_amount"]),
        (f"Total {currency}", totals["exact_gross_amount"], totals["gross_amount"]),
    ]
    if "paid_amount" in totals:
        amounts += [
            ("Paid from the account", totals["exact_paid"], totals["paid_amount"]),
            ("Due", totals["exact_due"], totals["amount_due"]),
        ]
    corrections = [
        (
            each["posted_at"],
            each["kind"],
            each["reason"],
            each["authorization_id"],
            each["exact_net_amount"],
            each["exact_vat_amount"],
        )
        for each in form.get("corrections", ())
    ]
    return (
        f'<div class="parties">{_party("Seller", form["seller"])}{_party("Buyer", form["buyer"])}</div>{_pairs(pairs)}'
        "<h2>Lines</h2>"
        + _table(("#", "What", "Used (UTC)", "Uses", "VAT", "Net, exact", "Net"), lines, numbers=4)
        + _vat(form)
        + f"<h2>Totals</h2>{_table(('', 'Exact', 'Rounded'), amounts, numbers=2)}"
        + (
            "<h2>Given back</h2>" + _table(("Posted", "Kind", "Reason", "Use", "Net", "VAT"), corrections, numbers=2)
            if corrections
            else ""
        )
        + f"<footer><p>{escape(form['rounding_rule'])}</p><p>Places {escape(str(ledger['after_position']))} to "
        f"{escape(str(ledger['to_position']))} of the ledger's audit chain.</p></footer>"
    )


def _receipt(form: Form) -> str:
    use, evidence, totals, currency = form["use"], form["evidence"], form["totals"], form["currency"]
    pairs = [
        ("Site", ", ".join(use["site_ids"])),
        ("Device", f"{use['device_id']}, register {use['register_id']}"),
        ("From", use["from"]),
        ("Until", use["until"]),
        ("Times by", use["times_by"]),
        ("Quantity", f"{use['quantity']} {use['unit']} ({use['register_from']} to {use['register_to']})"),
        ("State", use["state"]),
        ("Account", ", ".join(form["account_ids"])),
        ("Code", form["code"]),
    ]
    lines = [
        (
            f"{line['tariff']['id']} version {line['tariff']['version']}"
            + "".join(f"; {each['type']} {each['price']}" for each in line["price_components"]),
            f"{line['vat_rate']} %",
            line["exact_net_amount"],
            line["exact_vat_amount"],
            line["exact_gross_amount"],
        )
        for line in form["lines"]
    ]
    paid: list[tuple[object, ...]] = [(f"From {each['from']}", each["exact_amount"]) for each in form["paid"]]
    given: list[tuple[object, ...]] = [
        (f"{each['kind']} of {each['posted_at']}", f"-{each['exact_amount']}") for each in form["corrections"]
    ]
    amounts: list[tuple[object, ...]] = [
        (f"Total {currency}, rounded", totals["gross_amount"]),
        (f"Total {currency}, exact", totals["exact_gross_amount"]),
        *paid,
        *given,
        ("Remaining", form["exact_remaining"]),
    ]
    if form["exact_not_billed"] != "0.00":
        amounts.append(("Claimed and not billed so far", form["exact_not_billed"]))
    proven = "its detail is verified" if evidence["proven"] else "its detail is not verified yet"
    return (
        f'<div class="parties">{_party("Seller", form["seller"])}</div>{_pairs(pairs)}<h2>Price</h2>'
        + _table(("Tariff", "VAT", "Net", "VAT", "Gross"), lines, numbers=3)
        + _vat(form)
        + f"<h2>Paid</h2>{_table(('', currency), amounts, numbers=1)}"
        + f"<footer><p>{escape(form['rounding_rule'])}</p><p>Evidence: {escape(', '.join(evidence['classes']))}; {proven}. Authorization "
        f"{escape(evidence['authorization_id'])} of gateway {escape(evidence['gateway_id'])}.</p></footer>"
    )


def _statement(form: Form) -> str:
    pairs = [
        ("Operator", form["operator"]),
        ("Posted from", form["posted_from"] or "the beginning"),
        ("Posted before", form["posted_before"]),
        ("Currency", form["currency"]),
    ]

    def figures(of: Form) -> tuple[object, ...]:
        return of["balance"], of["reserved"], of["debt"]

    nothing = ("",) * 3
    rows: list[tuple[object, ...]] = [("", "", "Opening balance", *nothing, *figures(form["opening"]))]
    rows += [
        (each["posted_at"], each["happened_at"], each["what"], *figures(each["changed"]), *figures(each["after"]))
        for each in form["entries"]
    ]
    rows.append(("", "", "Closing balance", *nothing, *figures(form["closing"])))
    heads = ("Posted", "Happened", "What", "Balance ±", "Reserved ±", "Debt ±", "Balance", "Reserved", "Debt")
    ledger = form["ledger"]
    return (
        _pairs(pairs)
        + _table(heads, rows, numbers=6, sums=1)
        + f"<footer><p>Balance: funds less what was spent. Reserved: of the balance, set aside for gateways. Places {escape(str(ledger['after_position']))} to "
        f"{escape(str(ledger['to_position']))} of the ledger's audit chain.</p></footer>"
    )
