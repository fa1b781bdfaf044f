"""Documents as a service: who sells and buys, receipts and statements on demand, invoices and credit notes for ever."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio
import psycopg
import structlog
from typing_extensions import override

from farthing.clock import SECOND_US, BusinessClock, Instant, is_date
from farthing.hsm import Token
from farthing.ids import AUTHORIZATION_ID_SIZE, IdError, parse_bytes, parse_id, parse_receipt_code
from farthing.money import Currency, MoneyError, parse_currency
from farthing.tariff import TariffError
from farthing.v1 import documents_pb2, documents_pb2_grpc, movements_pb2, registry_pb2
from farthing_cloud.callers import caller
from farthing_cloud.channel import BackOfficeChannel
from farthing_cloud.config import DocumentsSection
from farthing_cloud.database import Pool
from farthing_cloud.documents import forms
from farthing_cloud.documents.checking import check
from farthing_cloud.documents.forms import StatementHeading
from farthing_cloud.documents.invoices import InvoiceError
from farthing_cloud.documents.issuing import Issuer
from farthing_cloud.documents.messages import (
    buyer_message,
    buyer_of,
    differences,
    document_message,
    seller_message,
    seller_of,
)
from farthing_cloud.documents.parties import Buyer, PartyError, Seller
from farthing_cloud.documents.reading import Peers
from farthing_cloud.documents.receipts import Surroundings, receipt_form
from farthing_cloud.documents.rounding import unit_micros
from farthing_cloud.documents.sessions import KINDS, SessionWatch
from farthing_cloud.documents.statements import StatementError, statement_of
from farthing_cloud.documents.store import DocumentStore, Session, Stored
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
                return await self._put_seller(seller_of(request.seller), _person(context), dry_run=request.dry_run)

    @override
    async def ListSellers(
        self, request: documents_pb2.ListSellersRequest, context: Any
    ) -> documents_pb2.ListSellersResponse:
        """Sellers as they are named now."""
        async with refusals(context), self._pool.connection() as connection:
            sellers = await DocumentStore(connection).sellers(request.operator_id)
        return documents_pb2.ListSellersResponse(sellers=[seller_message(each) for each in sellers])

    @override
    async def PutBuyer(self, request: documents_pb2.PutBuyerRequest, context: Any) -> registry_pb2.PutResponse:
        """Say whom an account's invoices are addressed to from now on."""
        async with refusals(context):
            with _core():
                return await self._put_buyer(buyer_of(request.buyer), _person(context), dry_run=request.dry_run)

    @override
    async def ListBuyers(
        self, request: documents_pb2.ListBuyersRequest, context: Any
    ) -> documents_pb2.ListBuyersResponse:
        """Buyers of an operator."""
        async with refusals(context), self._pool.connection() as connection:
            buyers = await DocumentStore(connection).buyers(request.operator_id, request.account_id)
        return documents_pb2.ListBuyersResponse(buyers=[buyer_message(each) for each in buyers])

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
        return documents_pb2.IssueInvoiceResponse(
            changed=changed, documents=[document_message(each) for each in issued]
        )

    @override
    async def ReplaceInvoice(
        self, request: documents_pb2.ReplaceInvoiceRequest, context: Any
    ) -> documents_pb2.ReplaceInvoiceResponse:
        """Cancel an invoice and bill what was left of it again."""
        async with refusals(context):
            with _core():
                changed, issued = await self._replace(request, _person(context))
        return documents_pb2.ReplaceInvoiceResponse(
            changed=changed, documents=[document_message(each) for each in issued]
        )

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
        return documents_pb2.ListDocumentsResponse(documents=[document_message(each) for each in found])

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
        return documents_pb2.ShowDocumentResponse(document=document_message(found))

    @override
    async def VerifyDocuments(
        self, request: documents_pb2.VerifyDocumentsRequest, context: Any
    ) -> documents_pb2.VerifyDocumentsResponse:
        """Hold all documents against the ledger."""
        async with refusals(context):
            with _core():
                return await check(self._pool, self._peers, parse_id(request.operator_id))

    # --- what they do ---

    async def _put_seller(self, seller: Seller, person: str, *, dry_run: bool) -> registry_pb2.PutResponse:
        unit_micros(parse_currency((await self._peers.operator(seller.operator_id)).currency))
        ledger_epoch = await self._peers.epoch()
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
                await store.put_seller(
                    seller, version=version, person=person, at=self._clock.now(), ledger_epoch=ledger_epoch
                )
        return registry_pb2.PutResponse(
            change=registry_pb2.CHANGE_CREATED if found is None else registry_pb2.CHANGE_UPDATED,
            differences=differences(None if found is None else found[0], seller),
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
            differences=differences(found, buyer),
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
        if not 0 <= request.from_us <= until or not is_date(until):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a statement ends after it begins, at a date")
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
                # In this order: a run that is written in between is found as made, and not as one to go on from.
                last = await store.last_run(operator_id, account_id)
                made = await store.run(operator_id, account_id, until)
                if made is not None:
                    return False, await store.numbered(operator_id, made.numbers)
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
                    after_head=b"" if last is None else last.to_head,
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
            ledger_epoch=await self._peers.epoch(),
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


def _person(context: Any) -> str:
    return caller(context).id


def _no_document(number: str) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, f"no document {number!r:.80}: 'farthing-admin documents list' names them")


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
