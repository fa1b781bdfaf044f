"""A payer's receipt: what one use was, what it cost line by line, who paid, and what it rests on.

Rule 1: it says what was posted, to the micro, and what was taken back since; what is claimed and not billed is named as such.
Rule 2: times are what devices signed; where no proven detail says them, the quarters of an hour of the ledger's lines.
Rule 3: a receipt found by its code names no account: whoever has the code was at the device, and need not be the account's owner.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.clock import QUARTER_US, Instant, is_date
from farthing.evidence.classes import name_of
from farthing.ids import format_receipt_code
from farthing.money import Currency, exact_micros, format_micros, rate_name
from farthing.tariff.zones import zone
from farthing.v1 import movements_pb2
from farthing_cloud.documents import forms
from farthing_cloud.documents.forms import Form
from farthing_cloud.documents.parties import Seller
from farthing_cloud.documents.rounding import RateSum, rounded, summed
from farthing_cloud.documents.store import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a receipt says beside the ledger's figures, from the registry and from what devices signed."""

    operator_name: str
    seller: Seller | None
    session: Session | None
    #: Of the register, and the value at which it returns to 0; empty and 0 where the registry does not name it any more.
    unit: str
    modulus: int
    #: (tariff, version) → the OCPI object.
    tariffs: Mapping[tuple[str, int], bytes]
    #: Accounts that are entitlements → the entitlement's id.
    entitlements: Mapping[str, str]


def receipt_id(operator_id: str, authorization_id: bytes, gateway_id: str) -> str:
    """The receipt's own name: the same use always gives the same."""
    digest = hashlib.sha256(f"{operator_id}/{authorization_id.hex()}/{gateway_id}".encode()).hexdigest()
    return f"R-{digest[:16]}"


def receipt_form(use: movements_pb2.ShowUseResponse, around: Surroundings, *, names_account: bool) -> Form:
    """The receipt. Raises ``farthing.tariff.TariffError`` for a site whose time zone is unknown."""
    currency = Currency(use.currency)
    net = sum(part.net_micros for part in use.parts)
    tax = sum(part.tax_micros for part in use.parts)
    gross = net + tax
    rates = rounded(
        summed(
            RateSum(rate_ppm=part.tax_rate_ppm, net_micros=part.net_micros, tax_micros=part.tax_micros)
            for part in use.parts
        ),
        currency,
    )
    back = sum(each.net_micros + each.tax_micros for each in use.corrections)
    back_to_payer = back - sum(each.risk_micros for each in use.corrections)
    accounts = sorted({part.account_id for part in use.parts if part.account_id})
    return {
        "schema": forms.SCHEMA,
        "kind": "receipt",
        "currency": currency,
        "receipt_id": receipt_id(use.operator_id, use.authorization_id, use.gateway_id),
        "code": format_receipt_code(around.session.code) if around.session is not None and around.session.code else "",
        "seller": forms.seller_form(around.seller)
        if around.seller is not None
        else {"operator_id": use.operator_id, "name": around.operator_name, "address": None, "vat_id": ""},
        "account_ids": accounts if names_account else [],
        "use": _use(use, around),
        "lines": _lines(use, around),
        "vat_breakdown": forms.breakdown(rates, currency),
        "totals": forms.totals_form(rates, gross, currency),
        "paid": [
            {"from": source, "exact_amount": format_micros(amount)}
            for source, amount in _paid(use.parts, around.entitlements)
        ],
        # Claimed, and set aside or parked: billed to nobody so far.
        "exact_not_billed": format_micros(use.claimed_net_micros + use.claimed_tax_micros - gross),
        "corrections": [
            {
                "correction_id": each.correction_id,
                "kind": each.kind,
                "posted_at": forms.utc(each.posted_at_us),
                "exact_amount": format_micros(each.net_micros + each.tax_micros),
                "exact_to_payer": format_micros(each.net_micros + each.tax_micros - each.risk_micros),
            }
            for each in use.corrections
        ],
        "exact_given_back_to_payer": format_micros(back_to_payer),
        "exact_remaining": format_micros(gross - back),
        "evidence": {
            "authorization_id": use.authorization_id.hex(),
            "gateway_id": use.gateway_id,
            "classes": sorted({name_of(part.evidence_class) for part in use.parts}),
            "proven": all(part.proven for part in use.parts),
        },
        "rounding_rule": forms.ROUNDING_RULE,
    }


def _use(use: movements_pb2.ShowUseResponse, around: Surroundings) -> Form:
    time_zone = zone(use.time_zone)
    quarters = [part.quarter for part in use.parts if part.quarter]
    session = around.session
    if session is not None and is_date(session.first_at) and is_date(session.last_at):
        first, last, by = session.first_at, session.last_at, "device-signed"
    elif quarters:
        first, last = Instant(min(quarters) * QUARTER_US), Instant((max(quarters) + 1) * QUARTER_US)
        by = "quarters of an hour"
    else:
        first, last, by = None, None, "unknown"
    return {
        "site_ids": sorted({part.site_id for part in use.parts}),
        "device_id": use.device_id,
        "register_id": use.register_id,
        "register_from": use.register_from % around.modulus if around.modulus else use.register_from,
        "register_to": use.register_to % around.modulus if around.modulus else use.register_to,
        "quantity": str(use.register_to - use.register_from),
        "unit": around.unit,
        "time_zone": use.time_zone,
        "from": None if first is None else forms.local(first, time_zone),
        "until": None if last is None else forms.local(last, time_zone),
        "times_by": by,
        "state": "final" if use.final else "so far",
    }


def _lines(use: movements_pb2.ShowUseResponse, around: Surroundings) -> list[Form]:
    groups: dict[tuple[str, str, int, int], list[movements_pb2.UsePart]] = {}
    for part in use.parts:
        key = (part.site_id, part.tariff_id, part.tariff_version, part.tax_rate_ppm)
        groups.setdefault(key, []).append(part)
    return [
        {
            "site_id": site_id,
            "tariff": {"id": tariff_id, "version": version},
            "price_components": _components(around.tariffs.get((tariff_id, version)), rate_ppm),
            "vat_rate": rate_name(rate_ppm),
            "exact_net_amount": format_micros(sum(part.net_micros for part in parts)),
            "exact_vat_amount": format_micros(sum(part.tax_micros for part in parts)),
            "exact_gross_amount": format_micros(sum(part.net_micros + part.tax_micros for part in parts)),
        }
        for (site_id, tariff_id, version, rate_ppm), parts in groups.items()
    ]


def _components(ocpi_json: bytes | None, rate_ppm: int) -> list[Form]:
    """The tariff's prices at this tax rate, as they were published: exact text."""
    if ocpi_json is None:
        return []
    tariff: Any = json.loads(ocpi_json, parse_float=str, parse_int=str)
    return [
        {
            "type": component["type"],
            "price": component["price"],
            "step_size": component.get("step_size", "1"),
            "vat_included": tariff.get("tax_included") is True,
        }
        for element in tariff["elements"]
        for component in element["price_components"]
        if exact_micros(component.get("vat") or "0") == rate_ppm * 100
    ]


def _paid(parts: Sequence[movements_pb2.UsePart], entitlements: Mapping[str, str]) -> list[tuple[str, int]]:
    sums: dict[str, int] = {}
    for part in parts:
        entitlement = entitlements.get(part.account_id)
        for source, amount in (
            (f"entitlement {entitlement}" if entitlement else "balance", part.balance_micros),
            ("debt", part.debt_micros),
            ("operator's risk", part.risk_micros),
            ("balance or debt, together with other uses", part.unsplit_micros),
        ):
            if amount:
                sums[source] = sums.get(source, 0) + amount
    return list(sums.items())
