"""Issue invoices and credit notes: number, content and what they stand for are written in one transaction, or not at all.

Rule 1: who issues is alone with its seller's series until the transaction ends: numbers have no gap, whoever crashes or collides.
Rule 2: a run of an account goes on where the last one ended in the ledger's audit chain; asked for again it answers with what it issued.
Rule 3: each billed part and each part given back is written with its document, under a key that cannot be written twice.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from farthing.clock import Instant
from farthing.money import Currency, exact_micros
from farthing_cloud.documents import forms
from farthing_cloud.documents.billing import GivenBack, Key
from farthing_cloud.documents.forms import Form, Heading
from farthing_cloud.documents.invoices import (
    CreditNote,
    InvoiceError,
    Line,
    Standing,
    credit_of,
    invoice_of,
    lines_of,
    whole,
)
from farthing_cloud.documents.parties import Buyer, Seller
from farthing_cloud.documents.reading import Told
from farthing_cloud.documents.store import DocumentStore, Draft, Run, SeriesTaken, Stored
from farthing_cloud.refusals import Refused

#: What a number stands for in a dry run.
NO_NUMBER = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuing: by whom, when, for whom; in the transaction of ``store``, which holds the seller's lock."""

    store: DocumentStore
    seller: Seller
    buyer: Buyer | None
    account_id: str
    currency: Currency
    person: str
    now: Instant
    #: Of the ledger: what was numbered in an earlier one may be lost, and in payers' hands.
    ledger_epoch: int
    dry_run: bool

    async def run(self, told: Told, until: Instant) -> list[Stored]:
        """The invoice of what was billed, then a credit note for each invoice of which something was given back."""
        operator_id, currency = self.seller.operator_id, self.currency
        places = (told.after_position, told.to_position, until)
        issued: list[Stored] = []
        here: Standing | None = None
        stands: Mapping[Key, int] = {}
        if told.billed:
            lines, stands = lines_of(told.billed)
            invoice = invoice_of(lines, currency, debt_micros=sum(each.debt_micros for each in told.billed))
            issued.append(
                await self._invoice(
                    places,
                    invoice.exact_micros,
                    invoice.gross_minor,
                    lambda heading: forms.invoice_form(heading, invoice),
                )
            )
            here = Standing(number=issued[0].number, root=issued[0].number, left=lines)
            if not self.dry_run:
                await self.store.put_billed_parts(operator_id, self.account_id, here.root, told.billed, stands)
        of_root: dict[str, list[tuple[int, GivenBack]]] = {}
        for each in told.given_back:
            if each.of in stands:
                assert here is not None
                root, line = here.root, stands[each.of]
            else:
                found = await self.store.stands_on(operator_id, self.account_id, each.of)
                if found is None:
                    raise InvoiceError(
                        f"correction {each.correction_id} gives back of place {each.of.position}, line {each.of.line},"
                        f" which no invoice of account {self.account_id} has"
                    )
                root, line = found
            of_root.setdefault(root, []).append((line, each))
        for root, given in of_root.items():
            standing = here if here is not None and root == here.root else await self._standing(root)
            taken: dict[int, tuple[int, int]] = {}
            for line, each in given:
                net, tax = taken.get(line, (0, 0))
                taken[line] = net + each.net_micros, tax + each.tax_micros
            note = credit_of(standing, taken, currency, [each for _, each in given])
            stored = await self._credit_note(note, places, reason="; ".join(sorted({each.reason for _, each in given})))
            issued.append(stored)
            if not self.dry_run:
                parts = [each for _, each in given]
                await self.store.put_credited_parts(operator_id, self.account_id, stored.number, parts)
        if not self.dry_run:
            await self.store.put_run(
                operator_id,
                Run(
                    account_id=self.account_id,
                    until=until,
                    after_position=told.after_position,
                    to_position=told.to_position,
                    to_head=told.to_head,
                    numbers=tuple(each.number for each in issued),
                ),
                person=self.person,
                at=self.now,
            )
        return issued

    async def replace(self, invoice: Stored, reason: str) -> list[Stored]:
        """Credit all that is left of ``invoice`` and bill it again with the parties of now."""
        form = forms.decode(invoice.content)
        currency = self.currency
        places = (form["ledger"]["after_position"], form["ledger"]["to_position"], self.now)
        standing = await self._standing(invoice.root_number)
        if standing.number != invoice.number:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, f"{invoice.number} was replaced before: {standing.number} stands"
            )
        taken = whole(standing)
        if not taken:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, f"nothing is left of {invoice.number}: it was credited whole"
            )
        note = credit_of(standing, taken, currency)
        issued = [await self._credit_note(note, places, reason=reason, cancels=True)]
        left: Sequence[Line] = [line for line in standing.left if line.net_micros + line.tax_micros]
        again = invoice_of(
            left, currency, debt_micros=min(exact_micros(form["totals"]["exact_due"]), note.exact_micros)
        )
        issued.append(
            await self._invoice(
                places,
                again.exact_micros,
                again.gross_minor,
                lambda heading: forms.invoice_form(heading, again, replaces=invoice.number, reason=reason),
                names=invoice.number,
                root=standing.root,
            )
        )
        return issued

    async def _standing(self, root: str) -> Standing:
        """The invoice of these lines that stands now, and what is left of it."""
        return standing_of(await self.store.of_root(self.seller.operator_id, root))

    async def _invoice(
        self,
        places: tuple[int, int, Instant],
        exact_micros: int,
        rounded_minor: int,
        form: Callable[[Heading], Form],
        *,
        names: str = "",
        root: str = "",
    ) -> Stored:
        draft = self._draft("invoice", self.seller.invoice_prefix, names, root, exact_micros, rounded_minor)
        return await self._put(draft, places, form)

    async def _credit_note(
        self, note: CreditNote, places: tuple[int, int, Instant], *, reason: str, cancels: bool = False
    ) -> Stored:
        draft = self._draft(
            "credit-note",
            self.seller.credit_note_prefix,
            note.of.number,
            note.of.root,
            note.exact_micros,
            note.gross_minor,
        )
        return await self._put(
            draft, places, lambda heading: forms.credit_note_form(heading, note, reason=reason, cancels=cancels)
        )

    def _draft(self, kind: str, prefix: str, names: str, root: str, exact_micros: int, rounded_minor: int) -> Draft:
        return Draft(
            operator_id=self.seller.operator_id,
            kind=kind,
            prefix=prefix,
            account_id=self.account_id,
            currency=self.currency,
            issued_at=self.now,
            person=self.person,
            names_number=names,
            root_number=root,
            exact_micros=exact_micros,
            rounded_minor=rounded_minor,
        )

    async def _put(self, draft: Draft, places: tuple[int, int, Instant], form: Callable[[Heading], Form]) -> Stored:
        if await self.store.prefix_epoch(draft.operator_id, draft.prefix) < self.ledger_epoch:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the database was restored from a backup since the prefix {draft.prefix} was chosen (epoch {self.ledger_epoch}): numbers given "
                f"after that backup may be in payers' hands. Choose a new prefix for {draft.kind}s: 'farthing-admin documents seller put'",
            )
        number, ordinal, previous_hash = NO_NUMBER, 0, b""
        if not self.dry_run:
            try:
                number, ordinal, previous_hash = await self.store.next_number(
                    draft.operator_id, draft.prefix, draft.kind
                )
            except SeriesTaken as err:
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, str(err)) from err
        after_position, to_position, until = places
        content = forms.encode(
            form(
                Heading(
                    number=number,
                    previous_hash=previous_hash,
                    issued_at=self.now,
                    seller=self.seller,
                    buyer=self.buyer,
                    account_id=self.account_id,
                    currency=self.currency,
                    after_position=after_position,
                    to_position=to_position,
                    until=until,
                )
            )
        )
        if self.dry_run:
            return Stored(
                draft=draft,
                number=number,
                ordinal=ordinal,
                content=content,
                content_hash=hashlib.sha256(content).digest(),
            )
        return await self.store.put_document(draft, number=number, ordinal=ordinal, content=content)


def standing_of(documents: Sequence[Stored]) -> Standing:
    """Of all documents with one root, in the order of issue: the invoice that stands, and what is left of it."""
    invoice = [each for each in documents if each.draft.kind == "invoice"][-1]
    notes = [
        each for each in documents if each.draft.kind == "credit-note" and each.draft.names_number == invoice.number
    ]
    return forms.standing_from(
        invoice.number,
        invoice.root_number,
        forms.decode(invoice.content),
        [forms.decode(note.content) for note in notes],
    )
