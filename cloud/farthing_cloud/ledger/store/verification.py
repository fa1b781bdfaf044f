"""Replay everything in one snapshot and name the first fault (P5): what the database holds against what it says.

Order: double entry first, then quotas and rules, then the three chains and what names their links, exposures, then claims,
receipts against the batches' own bytes, what gateways were told against the rows that decide what they are granted, and last what their
batches have shown of their journals.

What covers which table, and what nothing covers, stands in docs/what-covers-what.md. Whether a signature is its key's is for those who hold
the public keys: gateways check each receipt and directive, ``farthing-evidence`` a bundle.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import psycopg
from google.protobuf.message import DecodeError
from psycopg.rows import TupleRow

from farthing.evidence.carried import authorization_of
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.database import sentence, snapshot
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.store.interface import Looked, Read, Tell, Verdict, nobody
from farthing_cloud.ledger.store.parked import count_fault
from farthing_cloud.ledger.store.reading import receipt_of
from farthing_cloud.ledger.store.told import told_fault

_PACKAGE: Final = "farthing_cloud.ledger"


def _checks(*names: str) -> Mapping[str, bytes]:
    """What each looks at, and its sentence."""
    return {name.replace("_", " "): sentence(_PACKAGE, f"verify_{name}") for name in names}


_CHECKS: Final = _checks(
    "partitions",
    "accounts",
    "sums",
    "stray_transfers",
    "quotas",
    "rules",
    "terms",
    "decisions",
    "cases",
    "corrections",
    "plans",
    "claims",
    "batches",
    "directives",
    "audit",
    "payments",
    "proven",
    "closings",
    "requests",
    "heads",
    "keys",
    "exposures",
    "revocations",
)
#: After what gateways were told, which says in which incarnation they are, and the receipts, which say when batches were posted.
_CHECKS_OF_JOURNALS: Final = _checks("waiting", "heard")
#: What is read row by row in between.
_READINGS: Final = ("claims by batch", "parked statements", "splits of closings", "what gateways were told", "receipts")
_STEPS: Final = len(_CHECKS) + len(_READINGS) + len(_CHECKS_OF_JOURNALS)
#: Rows between two words of how far a reading is: some seconds.
_ROWS_A_WORD: Final = 1_000
_COUNTS: Final = sentence(_PACKAGE, "verify_counts")
_CLAIMS: Final = sentence(_PACKAGE, "list_claims_by_batch")
#: Batches read from the server at once: each is decoded and forgotten.
_CLAIMS_PAGE: Final = 20
_RECEIPTS: Final = sentence(_PACKAGE, "list_all_receipts")
_CLOSINGS: Final = sentence(_PACKAGE, "list_closings_made")
#: A closing has a few transfers for each site.
_CLOSINGS_PAGE: Final = 10
#: Receipts are a few hundred bytes.
_RECEIPTS_PAGE: Final = 1_000


async def verify(connection: psycopg.AsyncConnection[TupleRow], tell: Tell) -> Verdict:
    """Check every rule in one REPEATABLE READ snapshot; posting goes on meanwhile."""
    async with snapshot(connection):
        counts = await (await connection.execute(_COUNTS)).fetchone()
        assert counts is not None
        fault = await first_fault(connection, tell)
    return Verdict(fault=fault, transfers=counts[0], accounts=counts[1], batches=counts[2])


class _Steps:
    """Says each step before it is taken, and how many rows it has read. Mutable: it counts."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._step = self._rows = 0
        self._what = ""

    async def take(self, what: str) -> None:
        self._step, self._rows, self._what = self._step + 1, 0, what
        await self._say()

    async def read(self, rows: int) -> None:
        """So many more."""
        words, self._rows = self._rows // _ROWS_A_WORD, self._rows + rows
        if self._rows // _ROWS_A_WORD > words:
            await self._say()

    async def _say(self) -> None:
        await self._tell(Looked(step=self._step, steps=_STEPS, what=self._what, rows=self._rows))


async def first_fault(connection: psycopg.AsyncConnection[TupleRow], tell: Tell = nobody) -> str:
    """The first rule that is broken, in the snapshot of the transaction under way; empty for none."""
    steps = _Steps(tell)
    if fault := await _first_of(connection, _CHECKS, steps):
        return fault
    for what, reading in zip(
        _READINGS, (_claims_by_batch_fault, count_fault, _closings_fault, told_fault, _receipts_fault), strict=True
    ):
        await steps.take(what)
        if fault := await reading(connection, steps.read):
            return fault
    return await _first_of(connection, _CHECKS_OF_JOURNALS, steps)


async def _first_of(connection: psycopg.AsyncConnection[TupleRow], checks: Mapping[str, bytes], steps: _Steps) -> str:
    for what, check in checks.items():
        await steps.take(what)
        # Parameters (none) make psycopg read %% as %.
        row = await (await connection.execute(check, {})).fetchone()
        if row is not None:
            return str(row[0])
    return ""


async def _claims_by_batch_fault(connection: psycopg.AsyncConnection[TupleRow], read: Read) -> str:
    async with connection.cursor(name="claims_by_batch") as claims:
        await claims.execute(_CLAIMS)
        while rows := await claims.fetchmany(_CLAIMS_PAGE):
            # Each batch is decoded: not on the loop that serves the gateways' door meanwhile.
            if fault := await asyncio.to_thread(_first_claims_fault, rows):
                return fault
            await read(len(rows))
    return ""


async def _closings_fault(connection: psycopg.AsyncConnection[TupleRow], read: Read) -> str:
    async with connection.cursor(name="closings") as closings:
        await closings.execute(_CLOSINGS)
        while rows := await closings.fetchmany(_CLOSINGS_PAGE):
            for row in rows:
                if fault := _closing_fault(row):
                    return fault
            await read(len(rows))
    return ""


async def _receipts_fault(connection: psycopg.AsyncConnection[TupleRow], read: Read) -> str:
    async with connection.cursor(name="receipts") as receipts:
        await receipts.execute(_RECEIPTS)
        while rows := await receipts.fetchmany(_RECEIPTS_PAGE):
            for row in rows:
                if receipt_of(row).encode() != row[8]:
                    return f"batch {row[2]} of {row[0]}, incarnation {row[1]}: its receipt is not what was posted"
            await read(len(rows))
    return ""


def _first_claims_fault(rows: Iterable[TupleRow]) -> str:
    return next((fault for row in rows if (fault := _claims_fault(row))), "")


def _claims_fault(row: TupleRow) -> str:
    """The claims that name a batch as the one that raised them last must stand in its bytes."""
    gateway_id, incarnation, sequence, raw, carried, owners, authorizations, tos, nets, taxes, *places = row
    if raw is None:
        return f"claim {authorizations[0].hex()}: the batch that raised it is not there"
    batch = batch_pb2.Batch.FromString(raw)
    # What a carried end claims was computed by the ledger, for ends that stand in the batch; everything else stands in its bytes.
    ends = {(end.granted_by, authorization_of(GatewayId(end.granted_by), end.statements)) for end in batch.carried}
    for claim in carried:
        if (claim["gateway_id"], bytes.fromhex(claim["authorization_id"])) not in ends:
            return f"claim {claim['authorization_id']}: batch {sequence} of {gateway_id} carries no such end"
    said = {
        (claim.authorization_id, gateway_id): (claim.register_to, claim.net_micros, claim.tax_micros)
        for claim in batch.claims
    }
    said |= {
        (bytes.fromhex(claim["authorization_id"]), claim["gateway_id"]): (
            claim["register_to"],
            claim["net_micros"],
            claim["tax_micros"],
        )
        for claim in carried
    }
    stands = {
        claim.authorization_id: (claim.device_id, claim.register_id, claim.register_epoch, claim.register_from)
        for claim in batch.claims
    }
    for name, owner, to, net, tax, *place in zip(authorizations, owners, tos, nets, taxes, *places, strict=True):
        if owner == gateway_id and name in stands and tuple(place) != stands[name]:
            return f"claim {name.hex()}: batch {sequence} of {gateway_id}, incarnation {incarnation}, bills another register"
        # Each figure is the highest ever claimed: this batch claims no more, and one of them exactly.
        figures = (int(to), net, tax)
        claimed = said.get((name, owner), (-1, -1, -1))
        lower = any(stored < here for stored, here in zip(figures, claimed, strict=True))
        if lower or not any(stored == here for stored, here in zip(figures, claimed, strict=True)):
            return (
                f"claim {name.hex()}: says {figures}, batch {sequence} of {gateway_id}, "
                f"incarnation {incarnation}, says {claimed}"
            )
    return ""


def _closing_fault(row: TupleRow) -> str:
    """Who got what of a window, as its closing was answered, is what was posted, and what the rules kept for refunds make of it."""
    closed, operator_id, currency, raw, moved, kept = row
    window = f"window {closed} of {operator_id} in {currency}"
    try:
        answer = ledger_pb2.CloseWindowResponse.FromString(raw)
    except DecodeError:
        return f"{window}: its answer cannot be read"
    split: dict[str, dict[str, int]] = {}
    for debit, credit, micros, cause in moved:
        if cause == Cause.SPLIT:
            _, site_id, _ = debit.split("/")
            split.setdefault(site_id, {})[credit] = micros
    said = {
        site.site_id: {result.path: result.amount_micros for result in site.results if result.amount_micros}
        for site in answer.sites
        if site.split_micros
    }
    if said != split:
        return f"{window}: who got what of it is not what was posted"
    rules = {site_id: (parts, remainder_path) for site_id, parts, remainder_path in kept}
    for site_id, results in split.items():
        if site_id not in rules:
            return f"{window}: the rule that site {site_id} was split by is not there"
        parts, remainder_path = rules[site_id]
        try:
            rule = SplitRule(
                rule_version=0, parts=tuple((path, ppm) for path, ppm in parts), remainder_path=remainder_path
            )
        except LedgerRefusal:
            return f"{window}: the rule that site {site_id} was split by splits nothing"
        if {path: micros for path, micros in rule.split(sum(results.values())) if micros} != results:
            return f"{window}: site {site_id} was split by another rule"
    return ""
