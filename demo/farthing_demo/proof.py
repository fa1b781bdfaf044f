"""Do the sums of parties that do not trust each other agree? Every comparison is exact.

The devices' own count comes from what they wrote while they ran; prices from the contract; the journals' and the ledger's
sums from their own commands.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.clock import Instant
from farthing.ids import DeviceId, GatewayId, RegisterId, standing_authorization_id
from farthing.money import format_micros
from farthing.tariff import Tariff, Use, parse, price


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One use by the device's own count, priced by the contract; ``authorization`` in hex."""

    authorization: str
    device: str
    register: str
    register_epoch: int
    register_from: int
    register_to: int
    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One claim as the ledger has it."""

    authorization: str
    device: str
    register: str
    register_epoch: int
    register_from: int
    register_to: int
    amount_micros: int
    aside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the proof."""

    name: str
    what: str
    left: str
    right: str
    holds: bool


def equal(name: str, what: str, left_micros: int, right_micros: int) -> Check:
    """Both sides are the same amount."""
    return Check(
        name=name,
        what=what,
        left=format_micros(left_micros),
        right=format_micros(right_micros),
        holds=left_micros == right_micros,
    )


def none_of(name: str, what: str, found: Sequence[str]) -> Check:
    """Nothing of this kind was found; the first that was stands in the table."""
    return Check(name=name, what=what, left=str(len(found)), right=found[0] if found else "0", holds=not found)


def at_least_one(name: str, what: str, count: int) -> Check:
    """Something that the run is for did happen."""
    return Check(name=name, what=what, left=str(count), right="at least 1", holds=count > 0)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that devices wrote; none where they wrote nothing."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_tariffs(files: Mapping[str, Path]) -> dict[str, Tariff]:
    """The tariffs by id, as the operator gave them."""
    return {name: parse(file.read_bytes()) for name, file in files.items()}


def delivered(rows: Iterable[Mapping[str, Any]], tariffs: Mapping[str, Tariff]) -> list[Delivered]:
    """What devices delivered: uses that ended, and what standing meters counted, at the tariff's price."""
    out = []
    for row in rows:
        standing = row["kind"] == "standing"
        if row["kind"] not in ("use", "standing") or row["to"] == row["from"]:
            continue
        use = Use(
            unit=row["unit"],
            start=row["from"],
            end=row["to"],
            started_at=Instant(row["started_at_us"]),
            ended_at=Instant(row["ended_at_us"]),
        )
        authorization = row["authorization"]
        if standing:
            authorization = standing_authorization_id(
                DeviceId(row["device"]),
                row["device_epoch"],
                RegisterId(row["register"]),
                row["register_epoch"],
                GatewayId(row["gateway"]),
            ).hex()
        out.append(
            Delivered(
                authorization=authorization,
                device=row["device"],
                register=row["register"],
                register_epoch=row["register_epoch"],
                register_from=row["from"],
                register_to=row["to"],
                # A standing authorization has no end: it bills the lower bound that its readings prove.
                amount_micros=price(tariffs[row["tariff"]], use, closing=not standing).gross_micros,
            )
        )
    return out


def claimed(rows: Iterable[Mapping[str, Any]]) -> list[Claimed]:
    """Claims of the ledger as ``farthing-admin ledger claims --json`` gives them."""
    return [
        Claimed(
            authorization=row["authorization_id"],
            device=row["device_id"],
            register=row["register_id"],
            register_epoch=row["register_epoch"],
            register_from=row["register_from"],
            register_to=row["register_to"],
            amount_micros=row["net_micros"] + row["tax_micros"],
            aside=row["aside"],
        )
        for row in rows
    ]


def lost(uses: Iterable[Delivered], claims: Iterable[Claimed]) -> list[str]:
    """Uses that no claim bills, or that one bills for less."""
    by_id = {claim.authorization: claim for claim in claims}
    missing = []
    for use in uses:
        claim = by_id.get(use.authorization)
        if claim is None:
            missing.append(f"{use.device} {use.register_from}-{use.register_to}: no claim")
        elif (claim.register_to, claim.amount_micros) < (use.register_to, use.amount_micros):
            missing.append(
                f"{use.device} {use.register_from}-{use.register_to} {use.amount_micros}: claimed to {claim.register_to}, {claim.amount_micros}"
            )
    return missing


def doubled(claims: Iterable[Claimed]) -> list[str]:
    """Stretches of a register that two claims bill, both outside suspense."""
    by_register: dict[tuple[str, str, int], list[Claimed]] = {}
    for claim in claims:
        if not claim.aside and claim.register_to > claim.register_from:
            by_register.setdefault((claim.device, claim.register, claim.register_epoch), []).append(claim)
    twice = []
    for of_register in by_register.values():
        reached = -1
        for claim in sorted(of_register, key=lambda claim: claim.register_from):
            if claim.register_from < reached:
                twice.append(f"{claim.device} {claim.register_from}-{min(reached, claim.register_to)}")
            reached = max(reached, claim.register_to)
    return twice


def overspent(accounts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Accounts whose posted and held exceed their funds and credit limit."""
    return [
        row["account_id"]
        for row in accounts
        if row["posted_micros"] + row["held_micros"] > row["funds_micros"] + row["credit_limit_micros"]
    ]
