"""Whatever is used, under whatever tariffs, billed, given back and billed again: documents, statements and ledger are equal to the micro.

Prices come from the tariffs' own code, interim and closing records as a gateway seals them, transfers from the ledger, documents from its API.
``LEDGER_EXAMPLES=500`` is the long run.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeAlias

import grpc.aio
import pytest
from cloud_database import emptied
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_story import EUR, NOW, OP, SITES, Story, order

from farthing.clock import Instant
from farthing.ids import GatewayId, SiteId
from farthing.money import exact_micros, format_micros
from farthing.tariff import Tariff, Use, parse, price
from farthing.v1 import documents_pb2
from farthing_cloud.database import Pool
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import LedgerRefusal
from farthing_cloud.ledger.core.posting import Cause, Transfer, TransferKind
from farthing_cloud.ledger.core.rows import Balances
from farthing_cloud.ledger.core.uses import BILLED

pytestmark = pytest.mark.real

Form: TypeAlias = dict[str, Any]

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "5"))
ACCOUNTS = ("P", "F")
#: What a document adds to what stands.
SIGNS = {"invoice": 1, "credit-note": -1}


def tariff(*components: tuple[str, float, float], **more: object) -> Tariff:
    """Of (type, price, VAT) each."""
    elements = [
        {"price_components": [{"type": kind, "price": amount, "vat": vat, "step_size": 7}]}
        for kind, amount, vat in components
    ]
    return parse(json.dumps({"id": "t", "currency": "EUR", "elements": elements, **more}).encode())


#: With tax in their prices and without, of one rate and of several, with bounds.
TARIFFS = {
    "exclusive": tariff(("FLAT", 0.5, 20), ("ENERGY", 0.333333, 20)),
    "inclusive": tariff(("FLAT", 0.999999, 7), ("ENERGY", 7.77, 7), tax_included=True),
    "mixed": tariff(("FLAT", 1.2, 5.5), ("ENERGY", 0.25, 20)),
    "mixed, inclusive": tariff(("FLAT", 0.01, 20), ("ENERGY", 120, 5.5), tax_included=True),
    "untaxed": tariff(("ENERGY", 0.000001, 0), ("FLAT", 3, 0)),
    "at least": tariff(("ENERGY", 0.01, 20), min_price={"incl_vat": 1.111111}, tax_included=True),
    "at most": tariff(("FLAT", 3, 7), ("ENERGY", 120, 20), max_price={"excl_vat": 9}),
}

used = st.tuples(
    st.sampled_from(["P", "F"]),
    st.sampled_from(sorted(TARIFFS)),
    # What each record adds; the last one closes.
    st.lists(st.integers(0, 3_000) | st.integers(0, 90_000), min_size=1, max_size=3),
    st.sampled_from(["overrun", "floor"]),
)
deeds = st.lists(
    st.one_of(
        used.map(lambda each: ("use", each)),
        used.map(lambda each: ("use", each)),
        st.tuples(st.just("fund"), st.sampled_from(["P", "F"]), st.integers(1, 9_000_000)),
        st.tuples(st.just("invoice"), st.sampled_from(["P", "F"])),
        # Which use, and how much of it: 0 for all that is left.
        st.tuples(st.just("refund"), st.integers(0, 9), st.sampled_from([0, 1, 10_000, 333_333])),
        st.tuples(st.just("replace"), st.integers(0, 9)),
    ),
    min_size=3,
    max_size=9,
)


@dataclass
class Town:
    """One ledger, its gateways and documents, and what a test knows of them by itself."""

    office: Any
    story: Story
    #: Authorization and gateway of each use.
    uses: list[tuple[str, str]] = field(default_factory=list)
    until: Any = field(default_factory=lambda: itertools.count(1))
    counter: Any = field(default_factory=lambda: itertools.count(1))

    @classmethod
    async def open(cls, office: Any) -> "Town":
        """Two gateways that may bill any amount, two accounts with nothing, and a seller."""
        story = Story(office.story.store)
        await story.open()
        for gateway, site in SITES.items():
            await story.ledger.put_gateway(
                gateway_id=GatewayId(gateway),
                operator_id=OP,
                site_id=SiteId(site),
                currency=EUR,
                exposure_micros=10**12,
                batch_key=b"",
                grant_key=b"",
                time_zone="Europe/Berlin",
                now=NOW,
            )
        await office.sell()
        return cls(office, story)

    async def use(self, account: str, name: str, widths: Sequence[int], funding: str) -> None:
        """One authorization: a batch for each record, cumulative claims."""
        number, gateway = next(self.counter), ("G1", "G2")[len(self.uses) % 2]
        authorization, before, to = f"a{number}", {}, 0
        for index, width in enumerate(widths):
            to += width
            use = Use(unit="Wh", start=0, end=to, started_at=Instant(0), ended_at=Instant(10**9))
            due = price(TARIFFS[name], use, closing=index == len(widths) - 1)
            now = {part.rate_ppm: (part.net_micros, part.tax_micros) for part in due.parts}
            steps = {
                rate: (net - before.get(rate, (0, 0))[0], tax - before.get(rate, (0, 0))[1])
                for rate, (net, tax) in now.items()
            }
            before = now
            shares = [
                (line, format_micros(net), format_micros(tax))
                for line, (net, tax) in enumerate(step for step in steps.values() if any(step))
            ]
            raw = self.story.seal(
                gateway,
                [
                    (
                        authorization,
                        f"c{number}",
                        0,
                        to,
                        format_micros(sum(net for net, _ in now.values())),
                        format_micros(sum(tax for _, tax in now.values())),
                        shares,
                    )
                ],
                [(account, funding, (name, rate), "10:15") for rate, step in steps.items() if any(step)],
            )
            assert (await self.story.push(raw)).step is ChainStep.NEXT
        self.uses.append((authorization, gateway))

    async def refund(self, which: int, amount_micros: int) -> None:
        """Give back of a use, as far as there is that much."""
        authorization, gateway = self.uses[which % len(self.uses)]
        asked = order(
            "refund",
            f"r{next(self.counter)}",
            use=authorization,
            gateway_id=gateway,
            amount=format_micros(amount_micros),
        )
        try:
            await self.story.ledger.correct(asked, person="alice", now=NOW)
        except LedgerRefusal:
            return

    async def invoice(self, account: str) -> None:
        """Bill whatever has been posted so far."""
        await self.office.invoice(account, next(self.until))

    async def replace(self, which: int) -> None:
        """Cancel an invoice that stands, and bill it again."""
        invoices = [each.number for each, _ in await self.documents("") if each.kind == "invoice"]
        if not invoices:
            return
        request = documents_pb2.ReplaceInvoiceRequest(
            operator_id=OP, number=invoices[which % len(invoices)], reason=f"again {next(self.counter)}"
        )
        with suppress(grpc.aio.AioRpcError):  # nothing is left of it
            await self.office.documents.ReplaceInvoice(request)

    async def documents(self, account: str) -> list[tuple[Any, Form]]:
        """An account's documents with their forms; an empty one stands for all."""
        listed = await self.office.documents.ListDocuments(
            documents_pb2.ListDocumentsRequest(operator_id=OP, account_id=account)
        )
        asked = [documents_pb2.ShowDocumentRequest(operator_id=OP, number=each.number) for each in listed.documents]
        shown = [(await self.office.documents.ShowDocument(each)).document for each in asked]
        return [(each, json.loads(each.content)) for each in shown]

    async def statement(self, account: str) -> Form:
        """From the first day on."""
        request = documents_pb2.MakeStatementRequest(operator_id=OP, account_id=account)
        found: Form = json.loads((await self.office.documents.MakeStatement(request)).content)
        return found


def of_payer(transfer: Transfer, account: str) -> int:
    """What a transfer bills to an account (or, below 0, gives back): what it paid or owes; micros."""
    mine = (f"payer/{account}", f"debt/{account}")
    if transfer.kind is not TransferKind.POST or transfer.cause not in (*BILLED, Cause.REFUND):
        return 0
    return transfer.amount_micros * ((transfer.debit in mine) - (transfer.credit in mine))


def micros_of(form: Form, name: str) -> int:
    return exact_micros(form[name])


def cents_of(text: str) -> int:
    return exact_micros(text) // 10_000


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=deeds, all_back=st.booleans())
async def test_documents_statements_and_ledger_are_equal(
    office: Any, ledger_pool: Pool, steps: list[tuple[Any, ...]], all_back: bool
) -> None:
    await emptied(ledger_pool, "ledger", "documents")
    town = await Town.open(office)
    for step in steps:
        match step:
            case ("use", (str(account), str(name), list(widths), str(funding))):
                await town.use(account, name, widths, funding)
            case ("fund", str(account), int(amount)):
                await town.story.fund(account, format_micros(amount), f"p{next(town.counter)}")
            case ("invoice", str(account)):
                await town.invoice(account)
            case ("refund", int(which), int(amount)) if town.uses:
                await town.refund(which, amount)
            case ("replace", int(which)):
                await town.replace(which)
    for account in ACCOUNTS:
        await town.invoice(account)
    if all_back:
        for which in range(len(town.uses)):
            await town.refund(which, 0)
        for account in ACCOUNTS:
            await town.invoice(account)
    transfers = await town.story.store.transfers(OP)
    balances = {path: b for path, _, b in await town.story.store.balances(OP, "")}
    verdict = await office.verify()
    assert (verdict.ok, verdict.fault, verdict.not_invoiced_micros) == (True, "", 0)
    told = 0
    for account in ACCOUNTS:
        documents = await town.documents(account)
        standing = sum(each.exact_micros * SIGNS[each.kind] for each, _ in documents)
        # Invoices less credit notes, what the account's transfers say, and what its statement says.
        billed = sum(of_payer(transfer, account) for transfer in transfers)
        assert standing == billed
        told += standing
        statement = await town.statement(account)
        changed = [each["changed"] for each in statement["entries"] if each["cause"] in (*BILLED, Cause.REFUND)]
        assert standing == sum(micros_of(each, "debt") - micros_of(each, "balance") for each in changed)
        payer, debt = balances[f"payer/{account}"], balances.get(f"debt/{account}", Balances())
        assert micros_of(statement["closing"], "balance") == payer.credits_posted - payer.debits_posted
        assert micros_of(statement["closing"], "debt") == debt.debits_posted - debt.credits_posted
        for document, form in documents:
            rounds_once(document, form)
        if all_back:
            # Nothing is left of any, in micros and in cents.
            assert standing == 0
            assert sum(cents_of(form["totals"]["gross_amount"]) * SIGNS[each.kind] for each, form in documents) == 0
    risk = any("risk" in (transfer.debit, transfer.credit) for transfer in transfers)
    assert verdict.documented_micros == told
    if not risk:
        # Tax by its rate: what stands on documents is what is owed to the tax office.
        taxes: Counter[str] = Counter()
        for document, form in await town.documents(""):
            for rate in form["vat_breakdown"]:
                taxes[rate["vat_rate"]] += micros_of(rate, "exact_vat_amount") * SIGNS[document.kind]
        owed = {
            path.removeprefix("tax/"): b.credits_posted - b.debits_posted
            for path, b in balances.items()
            if path.startswith("tax/")
        }
        assert {rate: micros for rate, micros in taxes.items() if micros} == {r: m for r, m in owed.items() if m}


def rounds_once(document: Any, form: Form) -> None:
    """Each rate's sum is rounded once, its tax is that of the rounded sum, and the lines add up to it: by decimal arithmetic."""
    cent = Decimal("0.01")
    for rate in form["vat_breakdown"]:
        lines = [line for line in form["lines"] if line["vat_rate"] == rate["vat_rate"]]
        exact = sum(Decimal(line["exact_net_amount"]) for line in lines)
        assert exact == Decimal(rate["exact_taxable_amount"])
        assert sum(Decimal(line["exact_vat_amount"]) for line in lines) == Decimal(rate["exact_vat_amount"])
        assert sum(Decimal(line["net_amount"]) for line in lines) == Decimal(rate["taxable_amount"])
        if document.kind == "invoice":
            taxable = max(Decimal(0), exact).quantize(cent, ROUND_HALF_UP)
            assert Decimal(rate["taxable_amount"]) == taxable
            assert Decimal(rate["vat_amount"]) == (taxable * Decimal(rate["vat_rate"]) / 100).quantize(
                cent, ROUND_HALF_UP
            )
    totals = form["totals"]
    assert Decimal(totals["gross_amount"]) == Decimal(totals["net_amount"]) + Decimal(totals["vat_amount"])
    assert Decimal(totals["exact_gross_amount"]) == Decimal(format_micros(document.exact_micros))
    assert Decimal(totals["rounding_difference"]) == Decimal(totals["gross_amount"]) - Decimal(
        totals["exact_gross_amount"]
    )
