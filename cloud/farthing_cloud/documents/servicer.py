"""Documents as a service: who sells and buys, receipts and statements on demand, invoices and credit notes for ever."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import grpc
import grpc.aio
import psycopg
import structlog
from typing_extensions import override

from farthing.clock import SECOND_US, BusinessClock, Instant
from farthing.hsm import Token
from farthing.ids import AUTHORIZATION_ID_SIZE, IdError, parse_bytes, parse_id, parse_receipt_code
from farthing.money import Currency, MoneyError, parse_currency
from farthing.tariff import TariffError
from farthing.v1 import documents_pb2, documents_pb2_grpc, movements_pb2, registry_pb2
from farthing_cloud.callers import caller
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import DocumentsSection
from farthing_cloud.database import Pool
from farthing_cloud.documents import forms, verifying
from farthing_cloud.documents.forms import StatementHeading
from farthing_cloud.documents.invoices import InvoiceError
from farthing_cloud.documents.issuing import Issuer
from farthing_cloud.documents.parties import Address, Buyer, PartyError, Seller
from farthing_cloud.documents.reading import Peers
from farthing_cloud.documents.receipts import Surroundings, receipt_form
from farthing_cloud.documents.rounding import unit_micros
from farthing_cloud.documents.sessions import KINDS, SessionWatch
from farthing_cloud.documents.statements import StatementError, statement_of
from farthing_cloud.documents.store import DocumentStore, Run, Session, Stored
from farthing_cloud.events.consumer import Consumer, ConsumerLimits
from farthing_cloud.offering import Mounted
from farthing_cloud.refusals import Refused, refusals

MAX_DOCUMENTS: Final = 1_000
MAX_REASON: Final = 500
#: Another run of the account ended between our look and our turn: look again, so often.
ISSUE_ATTEMPTS: Final = 5
#: One token shown once makes a few uses: a wish that was repeated at another gateway, and the use itself.
USES_OF_A_CODE: Final = 16
#: How often sessions older than their retention are looked for, real seconds, and how many are forgotten in one round.
FORGET_EVERY_S: Final = 60.0
FORGET_AT_ONCE: Final = 1_000

_log = structlog.stdlib.get_logger(__name__)


@contextmanager
def _core() -> Iterator[None]:
    """What the core refuses, as the caller hears it."""
    try:
        yield
    except (IdError, PartyError) as err:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(err)) from err
    except (InvoiceError, StatementError) as err:
        _log.exception("documents_do_not_fit")
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{err}: nothing was issued; 'farthing-admin documents verify' and 'ledger verify' say where books differ",
        ) from err
    except (MoneyError, TariffError) as err:
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, str(err)) from err


class DocumentsServicer(documents_pb2_grpc.DocumentsServicer):
    """Answers the back office."""

    def __init__(self, *, pool: Pool, peers: Peers, clock: BusinessClock) -> None:
        self._pool = pool
        self._peers = peers
        self._clock = clock

    # --- parties ---

    @override
    async def PutSeller(self, request: documents_pb2.PutSellerRequest, context: Any) -> registry_pb2.PutResponse:
        """Name a seller, or change what its documents say from now on."""
        async with refusals(context):
            with _core():
                return await self._put_seller(_seller(request.seller), _person(context), dry_run=request.dry_run)

    @override
    async def ListSellers(
        self, request: documents_pb2.ListSellersRequest, context: Any
    ) -> documents_pb2.ListSellersResponse:
        """Sellers as they are named now."""
        async with refusals(context), self._pool.connection() as connection:
            sellers = await DocumentStore(connection).sellers(request.operator_id)
        return documents_pb2.ListSellersResponse(sellers=[_seller_message(each) for each in sellers])

    @override
    async def PutBuyer(self, request: documents_pb2.PutBuyerRequest, context: Any) -> registry_pb2.PutResponse:
        """Say whom an account's invoices are addressed to from now on."""
        async with refusals(context):
            with _core():
                return await self._put_buyer(_buyer(request.buyer), _person(context), dry_run=request.dry_run)

    @override
    async def ListBuyers(
        self, request: documents_pb2.ListBuyersRequest, context: Any
    ) -> documents_pb2.ListBuyersResponse:
        """Buyers of an operator."""
        async with refusals(context), self._pool.connection() as connection:
            buyers = await DocumentStore(connection).buyers(request.operator_id, request.account_id)
        return documents_pb2.ListBuyersResponse(buyers=[_buyer_message(each) for each in buyers])

    # --- receipts and statements: made when asked for ---

    @override
    async def MakeReceipt(
        self, request: documents_pb2.MakeReceiptRequest, context: Any
    ) -> documents_pb2.MakeReceiptResponse:
        """What one use was billed."""
        async with refusals(context):
            with _core():
                return documents_pb2.MakeReceiptResponse(content=await self._receipt(request))

    @override
    async def MakeStatement(
        self, request: documents_pb2.MakeStatementRequest, context: Any
    ) -> documents_pb2.MakeStatementResponse:
        """An account's movements between two instants."""
        async with refusals(context):
            with _core():
                return documents_pb2.MakeStatementResponse(content=await self._statement(request))

    # --- invoices and credit notes: issued once ---

    @override
    async def IssueInvoice(
        self, request: documents_pb2.IssueInvoiceRequest, context: Any
    ) -> documents_pb2.IssueInvoiceResponse:
        """Invoice an account up to an instant."""
        async with refusals(context):
            with _core():
                changed, issued = await self._issue(request, _person(context))
        return documents_pb2.IssueInvoiceResponse(changed=changed, documents=[_message(each) for each in issued])

    @override
    async def ReplaceInvoice(
        self, request: documents_pb2.ReplaceInvoiceRequest, context: Any
    ) -> documents_pb2.ReplaceInvoiceResponse:
        """Cancel an invoice and bill what was left of it again."""
        async with refusals(context):
            with _core():
                changed, issued = await self._replace(request, _person(context))
        return documents_pb2.ReplaceInvoiceResponse(changed=changed, documents=[_message(each) for each in issued])

    @override
    async def ListDocuments(
        self, request: documents_pb2.ListDocumentsRequest, context: Any
    ) -> documents_pb2.ListDocumentsResponse:
        """A page of documents, without their content."""
        async with refusals(context):
            if not 0 <= request.limit <= MAX_DOCUMENTS:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"a page has at most {MAX_DOCUMENTS} documents")
            async with self._pool.connection() as connection:
                found = await DocumentStore(connection).documents(
                    request.operator_id, request.account_id, request.after_number, request.limit or MAX_DOCUMENTS
                )
        return documents_pb2.ListDocumentsResponse(documents=[_message(each) for each in found])

    @override
    async def ShowDocument(
        self, request: documents_pb2.ShowDocumentRequest, context: Any
    ) -> documents_pb2.ShowDocumentResponse:
        """A document by its number."""
        async with refusals(context):
            async with self._pool.connection() as connection:
                found = await DocumentStore(connection).document(request.operator_id, request.number)
            if found is None:
                raise _no_document(request.number)
        return documents_pb2.ShowDocumentResponse(document=_message(found))

    @override
    async def VerifyDocuments(
        self, request: documents_pb2.VerifyDocumentsRequest, context: Any
    ) -> documents_pb2.VerifyDocumentsResponse:
        """Hold all documents against the ledger."""
        async with refusals(context):
            with _core():
                return await self._verify(parse_id(request.operator_id))

    # --- what they do ---

    async def _put_seller(self, seller: Seller, person: str, *, dry_run: bool) -> registry_pb2.PutResponse:
        unit_micros(parse_currency((await self._peers.operator(seller.operator_id)).currency))
        async with self._pool.connection() as connection, connection.transaction():
            store = DocumentStore(connection)
            await store.lock(seller.operator_id)
            for prefix, kind, _ in await store.series(seller.operator_id):
                wanted = {seller.invoice_prefix: "invoice", seller.credit_note_prefix: "credit-note"}
                if wanted.get(prefix, kind) != kind:
                    raise Refused(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"the prefix {prefix} numbers {kind}s: choose another one for {wanted[prefix]}s",
                    )
            found = await store.seller(seller.operator_id)
            if found is not None and found[0] == seller:
                return registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
            version = 1 if found is None else found[1] + 1
            if not dry_run:
                await store.put_seller(seller, version=version, person=person, at=self._clock.now())
        return registry_pb2.PutResponse(
            change=registry_pb2.CHANGE_CREATED if found is None else registry_pb2.CHANGE_UPDATED,
            differences=_differences(None if found is None else found[0], seller),
        )

    async def _put_buyer(self, buyer: Buyer, person: str, *, dry_run: bool) -> registry_pb2.PutResponse:
        if buyer.account_id not in await self._peers.accounts(buyer.operator_id):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no account {buyer.account_id} of operator {buyer.operator_id}")
        async with self._pool.connection() as connection, connection.transaction():
            store = DocumentStore(connection)
            await store.lock(buyer.operator_id)
            found = next(iter(await store.buyers(buyer.operator_id, buyer.account_id)), None)
            if found == buyer:
                return registry_pb2.PutResponse(change=registry_pb2.CHANGE_NONE)
            if not dry_run:
                await store.put_buyer(buyer, person=person, at=self._clock.now())
        return registry_pb2.PutResponse(
            change=registry_pb2.CHANGE_CREATED if found is None else registry_pb2.CHANGE_UPDATED,
            differences=_differences(found, buyer),
        )

    async def _receipt(self, request: documents_pb2.MakeReceiptRequest) -> bytes:
        operator_id = parse_id(request.operator_id)
        operator = await self._peers.operator(operator_id)
        session: Session | None
        by_code = request.WhichOneof("of") == "code"
        if by_code:
            use, session = await self._by_code(operator_id, parse_receipt_code(request.code))
        else:
            authorization_id = parse_bytes(request.authorization_id, AUTHORIZATION_ID_SIZE)
            use = await self._peers.use(operator_id, authorization_id, request.gateway_id)
            async with self._pool.connection() as connection:
                session = await DocumentStore(connection).session(operator_id, authorization_id, use.gateway_id)
        async with self._pool.connection() as connection:
            found = await DocumentStore(connection).seller(operator_id)
        unit, modulus = await self._peers.register(operator_id, use.device_id, use.register_id, use.register_epoch)
        around = Surroundings(
            operator_name=operator.name,
            seller=None if found is None else found[0],
            session=session,
            unit=unit,
            modulus=modulus,
            tariffs=await self._peers.tariffs(operator_id),
            entitlements=await self._peers.entitlements(operator_id),
        )
        return forms.encode(receipt_form(use, around, names_account=not by_code))

    async def _by_code(self, operator_id: str, code: bytes) -> tuple[movements_pb2.ShowUseResponse, Session]:
        """The use that a code names; of several (a wish repeated at another gateway) the one that was billed."""
        async with self._pool.connection() as connection:
            sessions = await DocumentStore(connection).sessions_by_code(operator_id, code, USES_OF_A_CODE)
        uses = [(await self._peers.use(operator_id, each.authorization_id, each.gateway_id), each) for each in sessions]
        if not uses:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                "no use with this code is proven yet: gateways upload the detail in quiet times, try again later",
            )
        return max(uses, key=lambda found: sum(part.net_micros + part.tax_micros for part in found[0].parts))

    async def _statement(self, request: documents_pb2.MakeStatementRequest) -> bytes:
        operator_id, account_id = parse_id(request.operator_id), parse_id(request.account_id)
        now = self._clock.now()
        until = Instant(request.until_us or now)
        if request.from_us < 0 or until < request.from_us:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a statement ends after it begins")
        operator = await self._peers.operator(operator_id)
        asked = movements_pb2.ListMovementsRequest(
            operator_id=operator_id, account_id=account_id, until_us=request.until_us
        )
        if request.from_us:
            asked.from_us = request.from_us
        told = await self._peers.movements(asked)
        statement = statement_of(told.opening, told.moved, told.closing)
        heading = StatementHeading(
            operator_name=operator.name,
            account_id=account_id,
            currency=told.currency,
            from_at=Instant(request.from_us),
            until=until,
            after_position=told.after_position,
            to_position=told.to_position,
        )
        return forms.encode(forms.statement_form(heading, statement))

    async def _issue(self, request: documents_pb2.IssueInvoiceRequest, person: str) -> tuple[bool, list[Stored]]:
        operator_id, account_id = parse_id(request.operator_id), parse_id(request.account_id)
        until, now = Instant(request.until_us), self._clock.now()
        if not 0 < until <= now:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "an invoice is up to an instant that has passed")
        for _ in range(ISSUE_ATTEMPTS):
            async with self._pool.connection() as connection:
                store = DocumentStore(connection)
                made = await store.run(operator_id, account_id, until)
                last = await store.last_run(operator_id, account_id)
                if made is not None:
                    return False, await _documents(store, operator_id, made.numbers)
            if last is not None and until < last.until:
                raise Refused(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"account {account_id} was invoiced up to a later instant before ({forms.utc(last.until)})",
                )
            told = await self._peers.movements(
                movements_pb2.ListMovementsRequest(
                    operator_id=operator_id,
                    account_id=account_id,
                    after_position=0 if last is None else last.to_position,
                    until_us=until,
                )
            )
            async with self._pool.connection() as connection, connection.transaction():
                store = DocumentStore(connection)
                await store.lock(operator_id)
                if await store.last_run(operator_id, account_id) != last:
                    continue
                issuer = await self._issuer(
                    store, operator_id, account_id, told.currency, person, now, dry_run=request.dry_run
                )
                return not request.dry_run, await issuer.run(told, until)
        raise Refused(grpc.StatusCode.ABORTED, f"others invoice account {account_id} at the same time: ask again")

    async def _issuer(
        self,
        store: DocumentStore,
        operator_id: str,
        account_id: str,
        currency: Currency,
        person: str,
        now: Instant,
        *,
        dry_run: bool,
    ) -> Issuer:
        found = await store.seller(operator_id)
        if found is None:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"who sells for operator {operator_id} is not said: 'farthing-admin documents seller put' first",
            )
        return Issuer(
            store=store,
            seller=found[0],
            buyer=next(iter(await store.buyers(operator_id, account_id)), None),
            account_id=account_id,
            currency=currency,
            person=person,
            now=now,
            dry_run=dry_run,
        )

    async def _replace(self, request: documents_pb2.ReplaceInvoiceRequest, person: str) -> tuple[bool, list[Stored]]:
        operator_id, number = parse_id(request.operator_id), request.number
        if not 1 <= len(request.reason) <= MAX_REASON or not request.reason.isprintable():
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"a reason has 1 to {MAX_REASON} printable characters")
        async with self._pool.connection() as connection, connection.transaction():
            store = DocumentStore(connection)
            await store.lock(operator_id)
            invoice = await store.document(operator_id, number)
            if invoice is None:
                raise _no_document(number)
            if invoice.draft.kind != "invoice":
                raise Refused(
                    grpc.StatusCode.FAILED_PRECONDITION, f"{number} is a credit note: only invoices are cancelled"
                )
            naming = [
                each
                for each in await store.of_root(operator_id, invoice.root_number)
                if each.draft.names_number == number
            ]
            cancelled = [each for each in naming if forms.decode(each.content).get("cancels")]
            if cancelled:
                before = forms.decode(cancelled[0].content)["note"]
                if before != request.reason:
                    raise Refused(
                        grpc.StatusCode.ALREADY_EXISTS,
                        f"{number} was cancelled before by {cancelled[0].number}, for another reason: {before}",
                    )
                return False, cancelled + [each for each in naming if each.draft.kind == "invoice"]
            issuer = await self._issuer(
                store,
                operator_id,
                invoice.draft.account_id,
                parse_currency(invoice.draft.currency),
                person,
                self._clock.now(),
                dry_run=request.dry_run,
            )
            return not request.dry_run, await issuer.replace(invoice, request.reason)

    async def _verify(self, operator_id: str) -> documents_pb2.VerifyDocumentsResponse:
        async with self._pool.connection() as connection:
            store = DocumentStore(connection)
            # Before the documents are read: what is issued meanwhile is more, never less.
            runs: dict[str, list[Run]] = {}
            for run in await store.runs(operator_id):
                runs.setdefault(run.account_id, []).append(run)
        accounts = await self._peers.accounts(operator_id)
        answer = documents_pb2.VerifyDocumentsResponse(accounts=len(accounts))
        faults = [
            f"account {gone} has documents, and the ledger does not know it" for gone in runs.keys() - set(accounts)
        ]
        exact = rounded = 0
        for account_id in accounts:
            told = await self._peers.movements(
                movements_pb2.ListMovementsRequest(operator_id=operator_id, account_id=account_id)
            )
            of_account = runs.get(account_id, [])
            to_position = of_account[-1].to_position if of_account else 0
            async with self._pool.connection() as connection:
                store = DocumentStore(connection)
                documents = await _of_account(store, operator_id, account_id)
                billed = [
                    part
                    for part in await store.billed_parts(operator_id, account_id)
                    if part.key.position <= to_position
                ]
                credited = [
                    part
                    for part in await store.credited_parts(operator_id, account_id)
                    if part.correction_position <= to_position
                ]
            sums = verifying.account_sums(account_id, to_position, (told.billed, told.given_back), (billed, credited))
            faults += [
                fault
                for fault in (
                    verifying.runs_fault(of_account),
                    *map(verifying.document_fault, documents),
                    verifying.lines_fault(documents, billed),
                    sums.fault,
                )
                if fault
            ]
            unit = unit_micros(told.currency)
            for each in documents:
                sign = 1 if each.draft.kind == "invoice" else -1
                exact += sign * each.draft.exact_micros
                rounded += sign * each.draft.rounded_minor * unit
            answer.documents += len(documents)
            answer.billed_micros += sums.billed_micros
            answer.given_back_micros += sums.given_back_micros
            answer.not_invoiced_micros += sums.not_invoiced_micros
        answer.documented_micros = exact
        answer.rounding_micros = rounded - exact
        async with self._pool.connection() as connection, connection.transaction():
            store = DocumentStore(connection)
            # Nobody takes a number while series and documents are held against each other.
            await store.lock(operator_id)
            everything = await _of_account(store, operator_id, "", content=False)
            fault = verifying.series_fault(await store.series(operator_id), everything)
        last: dict[str, Stored] = {}
        async with self._pool.connection() as connection:
            store = DocumentStore(connection)
            for each in everything:
                stored = await store.document(operator_id, each.number)
                assert stored is not None  # nobody deletes documents: their number was just listed
                fault = fault or verifying.chain_fault(stored, last.get(each.draft.prefix))
                last[each.draft.prefix] = each
        faults += [fault] if fault else []
        if not faults and exact != answer.billed_micros - answer.given_back_micros:
            faults = [
                f"documents sum to {exact} micros, and billed less given back is {answer.billed_micros - answer.given_back_micros}"
            ]
        answer.ok = not faults
        answer.fault = faults[0] if faults else ""
        return answer


async def _documents(store: DocumentStore, operator_id: str, numbers: Sequence[str]) -> list[Stored]:
    found = [await store.document(operator_id, number) for number in numbers]
    return [each for each in found if each is not None]


async def _of_account(store: DocumentStore, operator_id: str, account_id: str, *, content: bool = True) -> list[Stored]:
    """All documents of an account (empty: of the operator), in the order of issue."""
    found: list[Stored] = []
    after = ""
    while page := await store.documents(operator_id, account_id, after, MAX_DOCUMENTS):
        after = page[-1].number
        found += await _documents(store, operator_id, [each.number for each in page]) if content else page
    return found


def _person(context: Any) -> str:
    return caller(context).id


def _no_document(number: str) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, f"no document {number!r:.80}: 'farthing-admin documents list' names them")


def _differences(before: Seller | Buyer | None, after: Seller | Buyer) -> list[str]:
    old = {} if before is None else _flat(before)
    return [
        f"{name}: {old.get(name) or 'none'} -> {value or 'none'}"
        for name, value in _flat(after).items()
        if old.get(name, "") != value
    ]


def _flat(party: Seller | Buyer) -> dict[str, str]:
    fields = asdict(party)
    return {**{name: text for name, text in fields.items() if name != "address"}, **fields["address"]}


def _address(message: documents_pb2.PostalAddress) -> Address:
    return Address(street=message.street, city=message.city, postcode=message.postcode, country=message.country)


def _address_message(address: Address) -> documents_pb2.PostalAddress:
    return documents_pb2.PostalAddress(
        street=address.street, city=address.city, postcode=address.postcode, country=address.country
    )


def _seller(message: documents_pb2.Seller) -> Seller:
    return Seller(
        operator_id=message.operator_id,
        name=message.name,
        address=_address(message.address),
        vat_id=message.vat_id,
        invoice_prefix=message.invoice_prefix,
        credit_note_prefix=message.credit_note_prefix,
    )


def _seller_message(seller: Seller) -> documents_pb2.Seller:
    return documents_pb2.Seller(
        operator_id=seller.operator_id,
        name=seller.name,
        address=_address_message(seller.address),
        vat_id=seller.vat_id,
        invoice_prefix=seller.invoice_prefix,
        credit_note_prefix=seller.credit_note_prefix,
    )


def _buyer(message: documents_pb2.Buyer) -> Buyer:
    return Buyer(
        operator_id=message.operator_id,
        account_id=message.account_id,
        name=message.name,
        address=_address(message.address),
        vat_id=message.vat_id,
    )


def _buyer_message(buyer: Buyer) -> documents_pb2.Buyer:
    return documents_pb2.Buyer(
        operator_id=buyer.operator_id,
        account_id=buyer.account_id,
        name=buyer.name,
        address=_address_message(buyer.address),
        vat_id=buyer.vat_id,
    )


def _message(stored: Stored) -> documents_pb2.PayersDocument:
    return documents_pb2.PayersDocument(
        operator_id=stored.draft.operator_id,
        number=stored.number,
        kind=stored.draft.kind,
        account_id=stored.draft.account_id,
        currency=stored.draft.currency,
        issued_at_us=stored.draft.issued_at,
        person=stored.draft.person,
        names_number=stored.draft.names_number,
        exact_micros=stored.draft.exact_micros,
        content=stored.content,
        content_hash=stored.content_hash,
    )


class DocumentsService:
    """The servicer, the consumer, and who forgets old sessions."""

    def __init__(
        self,
        *,
        servicer: DocumentsServicer,
        consumer: Consumer,
        pool: Pool,
        clock: BusinessClock,
        keep_sessions_us: int,
    ) -> None:
        self._servicer = servicer
        self.consumer = consumer
        self._pool = pool
        self._clock = clock
        self._keep_sessions_us = keep_sessions_us

    @property
    def servicers(self) -> Sequence[Mounted]:
        """``Documents``, for the back office."""
        return ((documents_pb2_grpc.add_DocumentsServicer_to_server, self._servicer, "back-office"),)

    async def run(self) -> None:
        """Follow the outbox and forget what is old, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.consumer.run(), name="documents-events")
            group.create_task(self._forget(), name="documents-forgetting")

    async def _forget(self) -> None:
        while True:
            forgotten = 0
            try:
                async with self._pool.connection() as connection:
                    before = Instant(self._clock.now() - self._keep_sessions_us)
                    forgotten = await DocumentStore(connection).forget_sessions(before, FORGET_AT_ONCE)
            except psycopg.OperationalError as err:
                _log.warning("old sessions wait to be forgotten", cause=str(err).strip())
            # A full round has more behind it.
            await asyncio.sleep(0 if forgotten == FORGET_AT_ONCE else FORGET_EVERY_S)


def build(
    *,
    pool: Pool,
    token: Token | None,  # noqa: ARG001 - documents are not signed: their bytes and hashes are kept
    channel: BackOfficeChannel,
    clock: BusinessClock,
    settings: DocumentsSection,
    limits: ConsumerLimits | None = None,
) -> DocumentsService:
    """Wire the service; opens and starts nothing."""
    consumer = Consumer(
        name="documents", kinds=KINDS, pool=pool, ledger=channel.to("ledger"), handler=SessionWatch(), limits=limits
    )
    return DocumentsService(
        servicer=DocumentsServicer(
            pool=pool, peers=Peers(ledger=channel.to("ledger"), registry=channel.to("registry")), clock=clock
        ),
        consumer=consumer,
        pool=pool,
        clock=clock,
        keep_sessions_us=settings.keep_sessions_s * SECOND_US,
    )
