"""The rows of documents, by their sentences."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from farthing.clock import Instant
from farthing_cloud.database import sentence
from farthing_cloud.documents.billing import Billed, GivenBack, Key
from farthing_cloud.documents.parties import Address, Buyer, Seller, document_number

_FIND_BILLED_PART = sentence(__package__, "find_billed_part")
_FIND_CODE = sentence(__package__, "find_code")
_FIND_DOCUMENT = sentence(__package__, "find_document")
_FIND_RUN = sentence(__package__, "find_run")
_FIND_SELLER = sentence(__package__, "find_seller")
_FIND_SESSION = sentence(__package__, "find_session")
_FORGET_SESSIONS = sentence(__package__, "forget_sessions")
_KEEP_SESSIONS = sentence(__package__, "keep_sessions")
_LAST_RUN = sentence(__package__, "last_run")
_LIST_BILLED_PARTS = sentence(__package__, "list_billed_parts")
_LIST_BUYERS = sentence(__package__, "list_buyers")
_LIST_CREDITED_PARTS = sentence(__package__, "list_credited_parts")
_LIST_DOCUMENTS = sentence(__package__, "list_documents")
_LIST_ROOT = sentence(__package__, "list_root")
_LIST_RUNS = sentence(__package__, "list_runs")
_LIST_SELLERS = sentence(__package__, "list_sellers")
_LIST_SERIES = sentence(__package__, "list_series")
_LOCK_SELLER = sentence(__package__, "lock_seller")
_NEXT_NUMBER = sentence(__package__, "next_number")
_PREFIX_EPOCH = sentence(__package__, "prefix_epoch")
_PUT_BILLED_PARTS = sentence(__package__, "put_billed_parts")
_PUT_BUYER = sentence(__package__, "put_buyer")
_PUT_CREDITED_PARTS = sentence(__package__, "put_credited_parts")
_PUT_DOCUMENT = sentence(__package__, "put_document")
_PUT_RUN = sentence(__package__, "put_run")
_PUT_SELLER = sentence(__package__, "put_seller")


#: Documents in one answer of the database.
PAGE_DOCUMENTS: Final = 1_000


class SeriesTaken(Exception):
    """A prefix that numbers documents of the other kind; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A document before it has a number. ``content`` is made of the number, so it comes last."""

    operator_id: str
    kind: str
    prefix: str
    account_id: str
    currency: str
    issued_at: Instant
    person: str
    names_number: str
    #: Empty: its own number.
    root_number: str
    exact_micros: int
    rounded_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A document as it stays."""

    draft: Draft
    number: str
    ordinal: int
    content: bytes
    content_hash: bytes

    @property
    def root_number(self) -> str:
        """The first invoice of its lines."""
        return self.draft.root_number or self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Up to which place of the ledger's audit chain an account's documents go, and which ones a run issued."""

    account_id: str
    until: Instant
    after_position: int
    to_position: int
    #: The chain's head there, SHA-256.
    to_head: bytes
    numbers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """When and where a use was, as its device signed it; ``code`` is empty where no token was shown."""

    authorization_id: bytes
    gateway_id: str
    device_id: str
    first_at: Instant
    last_at: Instant
    code: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPart:
    """A billed or given-back part, and the document it stands on.

    ``correction_position`` is 0 for what was billed, ``line_number`` (on the first invoice) for what was given back.
    """

    correction_position: int
    key: Key
    number: str
    line_number: int
    net_micros: int
    tax_micros: int


class DocumentStore:
    """The schema ``documents`` through one connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    # --- parties ---

    async def seller(self, operator_id: str) -> tuple[Seller, int] | None:
        """The seller in force, and its version."""
        row = await self._one(_FIND_SELLER, operator_id=operator_id)
        return None if row is None else (_seller(row), int(row["version"]))

    async def sellers(self, operator_id: str) -> list[Seller]:
        """Of an operator (empty: of all), those in force."""
        return [_seller(row) for row in await self._all(_LIST_SELLERS, operator_id=operator_id)]

    async def prefix_epoch(self, operator_id: str, prefix: str) -> int:
        """The ledger's epoch in which a seller's prefix was first chosen."""
        row = await self._one(_PREFIX_EPOCH, operator_id=operator_id, prefix=prefix)
        assert row is not None
        return int(row["ledger_epoch"])

    async def put_seller(self, seller: Seller, *, version: int, person: str, at: Instant, ledger_epoch: int) -> None:
        """Write a new version."""
        values = {**asdict(seller), **asdict(seller.address), "version": version, "person": person, "at_us": at}
        values["ledger_epoch"] = ledger_epoch
        values.pop("address")
        await self._connection.execute(_PUT_SELLER, values)

    async def buyers(self, operator_id: str, account_id: str) -> list[Buyer]:
        """Of one account, or (empty) of all."""
        return [
            Buyer(
                operator_id=row["operator_id"],
                account_id=row["account_id"],
                name=row["name"],
                address=_address(row),
                vat_id=row["vat_id"],
            )
            for row in await self._all(_LIST_BUYERS, operator_id=operator_id, account_id=account_id)
        ]

    async def put_buyer(self, buyer: Buyer, *, person: str, at: Instant) -> None:
        """Write whom an account's invoices are addressed to."""
        values = {**asdict(buyer), **asdict(buyer.address), "person": person, "at_us": at}
        values.pop("address")
        await self._connection.execute(_PUT_BUYER, values)

    # --- numbers and documents ---

    async def lock(self, operator_id: str) -> None:
        """Be the only one to issue documents of this seller until the transaction ends."""
        await self._connection.execute(_LOCK_SELLER, {"operator_id": operator_id})

    async def series(self, operator_id: str) -> list[tuple[str, str, int]]:
        """(prefix, kind, how many numbers were given)."""
        rows = await self._all(_LIST_SERIES, operator_id=operator_id)
        return [(row["prefix"], row["kind"], int(row["issued"])) for row in rows]

    async def next_number(self, operator_id: str, prefix: str, kind: str) -> tuple[str, int, bytes]:
        """Take the next number of a series, and the hash of the document before it (empty for the first).

        With the transaction the number is taken, or was never given.
        """
        row = await self._one(_NEXT_NUMBER, operator_id=operator_id, prefix=prefix, kind=kind)
        assert row is not None
        if row["kind"] != kind:
            raise SeriesTaken(f"the prefix {prefix} numbers {row['kind']}s: choose another one for {kind}s")
        return document_number(prefix, row["issued"]), int(row["issued"]), row["previous_hash"] or b""

    async def put_document(self, draft: Draft, *, number: str, ordinal: int, content: bytes) -> Stored:
        """Write a document for ever."""
        stored = Stored(
            draft=draft, number=number, ordinal=ordinal, content=content, content_hash=hashlib.sha256(content).digest()
        )
        await self._connection.execute(
            _PUT_DOCUMENT,
            {
                "operator_id": draft.operator_id,
                "number": number,
                "kind": draft.kind,
                "prefix": draft.prefix,
                "ordinal": ordinal,
                "account_id": draft.account_id,
                "currency": draft.currency,
                "issued_at_us": draft.issued_at,
                "person": draft.person,
                "names_number": draft.names_number,
                "root_number": stored.root_number,
                "exact_micros": draft.exact_micros,
                "rounded_minor": draft.rounded_minor,
                "content": content,
                "content_hash": stored.content_hash,
            },
        )
        return stored

    async def document(self, operator_id: str, number: str) -> Stored | None:
        """A document by its number."""
        row = await self._one(_FIND_DOCUMENT, operator_id=operator_id, number=number)
        return None if row is None else _stored(row)

    async def documents(self, operator_id: str, account_id: str, after_number: str, limit: int) -> list[Stored]:
        """A page of documents in the order of issue, without their content."""
        named = {"operator_id": operator_id, "account_id": account_id, "after_number": after_number, "limit": limit}
        return [_stored(row) for row in await self._all(_LIST_DOCUMENTS, **named)]

    async def of_root(self, operator_id: str, root_number: str) -> list[Stored]:
        """An invoice with its credit notes and what took its place, in the order of issue."""
        return [_stored(row) for row in await self._all(_LIST_ROOT, operator_id=operator_id, root_number=root_number)]

    async def numbered(self, operator_id: str, numbers: Sequence[str]) -> list[Stored]:
        """Documents by their numbers, in that order."""
        found = [await self.document(operator_id, number) for number in numbers]
        return [each for each in found if each is not None]

    async def everything(self, operator_id: str, account_id: str, *, content: bool = True) -> list[Stored]:
        """All documents of an account (empty: of the operator), in the order of issue."""
        found: list[Stored] = []
        after = ""
        while page := await self.documents(operator_id, account_id, after, PAGE_DOCUMENTS):
            after = page[-1].number
            found += await self.numbered(operator_id, [each.number for each in page]) if content else page
        return found

    # --- runs and parts ---

    async def run(self, operator_id: str, account_id: str, until: Instant) -> Run | None:
        """A run by its instant."""
        row = await self._one(_FIND_RUN, operator_id=operator_id, account_id=account_id, until_us=until)
        return None if row is None else _run(account_id, row)

    async def last_run(self, operator_id: str, account_id: str) -> Run | None:
        """The account's last run."""
        row = await self._one(_LAST_RUN, operator_id=operator_id, account_id=account_id)
        return None if row is None else _run(account_id, row)

    async def runs(self, operator_id: str) -> list[Run]:
        """All runs, by account and instant."""
        return [_run(row["account_id"], row) for row in await self._all(_LIST_RUNS, operator_id=operator_id)]

    async def put_run(self, operator_id: str, run: Run, *, person: str, at: Instant) -> None:
        """Write a run; one that does not go on from the last one cannot be written."""
        await self._connection.execute(
            _PUT_RUN,
            {
                "operator_id": operator_id,
                "account_id": run.account_id,
                "until_us": run.until,
                "after_position": run.after_position,
                "to_position": run.to_position,
                "to_head": run.to_head,
                "numbers": list(run.numbers),
                "person": person,
                "at_us": at,
            },
        )

    async def put_billed_parts(
        self, operator_id: str, account_id: str, root_number: str, billed: Sequence[Billed], stands: Mapping[Key, int]
    ) -> None:
        """Say on which line of which invoice each billed part stands; the second time it raises ``UniqueViolation``."""
        await self._connection.execute(
            _PUT_BILLED_PARTS,
            {
                "operator_id": operator_id,
                "account_id": account_id,
                "root_number": root_number,
                "positions": [each.key.position for each in billed],
                "lines": [each.key.line for each in billed],
                "authorizations": [each.key.authorization_id for each in billed],
                "line_numbers": [stands[each.key] for each in billed],
                "nets": [each.net_micros for each in billed],
                "taxes": [each.tax_micros for each in billed],
            },
        )

    async def put_credited_parts(
        self, operator_id: str, account_id: str, number: str, given_back: Sequence[GivenBack]
    ) -> None:
        """Say on which credit note each part stands that was given back; the second time it raises ``UniqueViolation``."""
        await self._connection.execute(
            _PUT_CREDITED_PARTS,
            {
                "operator_id": operator_id,
                "account_id": account_id,
                "number": number,
                "correction_positions": [each.position for each in given_back],
                "positions": [each.of.position for each in given_back],
                "lines": [each.of.line for each in given_back],
                "authorizations": [each.of.authorization_id for each in given_back],
                "nets": [each.net_micros for each in given_back],
                "taxes": [each.tax_micros for each in given_back],
            },
        )

    async def stands_on(self, operator_id: str, account_id: str, key: Key) -> tuple[str, int] | None:
        """The first invoice of a billed part, and its line there."""
        row = await self._one(
            _FIND_BILLED_PART,
            operator_id=operator_id,
            account_id=account_id,
            position=key.position,
            line=key.line,
            authorization_id=key.authorization_id,
        )
        return None if row is None else (row["root_number"], int(row["line_number"]))

    async def billed_parts(self, operator_id: str, account_id: str) -> list[KeptPart]:
        """All parts of an account that stand on invoices."""
        rows = await self._all(_LIST_BILLED_PARTS, operator_id=operator_id, account_id=account_id)
        return [_part(row, row["root_number"], 0) for row in rows]

    async def credited_parts(self, operator_id: str, account_id: str) -> list[KeptPart]:
        """All parts of an account that stand on credit notes."""
        rows = await self._all(_LIST_CREDITED_PARTS, operator_id=operator_id, account_id=account_id)
        return [_part(row, row["number"], int(row["correction_position"])) for row in rows]

    # --- sessions ---

    async def keep_sessions(self, sessions: Sequence[tuple[str, Session]]) -> None:
        """Remember (operator, session); what is known of one is widened. Each (operator, authorization, gateway) once."""
        await self._connection.execute(
            _KEEP_SESSIONS,
            {
                "operator_ids": [operator_id for operator_id, _ in sessions],
                "authorizations": [each.authorization_id for _, each in sessions],
                "gateway_ids": [each.gateway_id for _, each in sessions],
                "device_ids": [each.device_id for _, each in sessions],
                "firsts": [each.first_at for _, each in sessions],
                "lasts": [each.last_at for _, each in sessions],
                "codes": [each.code for _, each in sessions],
            },
        )

    async def session(self, operator_id: str, authorization_id: bytes, gateway_id: str) -> Session | None:
        """What is known of a use."""
        row = await self._one(
            _FIND_SESSION, operator_id=operator_id, authorization_id=authorization_id, gateway_id=gateway_id
        )
        return None if row is None else _session(row)

    async def sessions_by_code(self, operator_id: str, code: bytes, limit: int) -> list[Session]:
        """Uses with one code: one, or what one payer did with one showing of a token."""
        return [_session(row) for row in await self._all(_FIND_CODE, operator_id=operator_id, code=code, limit=limit)]

    async def forget_sessions(self, before: Instant, limit: int) -> int:
        """Forget uses that ended before an instant; how many there were, at most ``limit``."""
        row = await self._one(_FORGET_SESSIONS, before_us=before, limit=limit)
        assert row is not None
        return int(row["count"])

    async def _one(self, statement: bytes, **values: object) -> dict[str, Any] | None:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchone()

    async def _all(self, statement: bytes, **values: object) -> list[dict[str, Any]]:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall()


def _address(row: Mapping[str, Any]) -> Address:
    return Address(street=row["street"], city=row["city"], postcode=row["postcode"], country=row["country"])


def _seller(row: Mapping[str, Any]) -> Seller:
    return Seller(
        operator_id=row["operator_id"],
        name=row["name"],
        address=_address(row),
        vat_id=row["vat_id"],
        invoice_prefix=row["invoice_prefix"],
        credit_note_prefix=row["credit_note_prefix"],
    )


def _stored(row: Mapping[str, Any]) -> Stored:
    return Stored(
        draft=Draft(
            operator_id=row["operator_id"],
            kind=row["kind"],
            prefix=row["prefix"],
            account_id=row["account_id"],
            currency=row["currency"],
            issued_at=Instant(row["issued_at_us"]),
            person=row["person"],
            names_number=row["names_number"],
            root_number=row["root_number"],
            exact_micros=int(row["exact_micros"]),
            rounded_minor=int(row["rounded_minor"]),
        ),
        number=row["number"],
        ordinal=int(row["ordinal"]),
        content=row["content"],
        content_hash=row["content_hash"],
    )


def _run(account_id: str, row: Mapping[str, Any]) -> Run:
    return Run(
        account_id=account_id,
        until=Instant(row["until_us"]),
        after_position=int(row["after_position"]),
        to_position=int(row["to_position"]),
        to_head=bytes(row["to_head"]),
        numbers=tuple(row["numbers"]),
    )


def _part(row: Mapping[str, Any], number: str, correction_position: int) -> KeptPart:
    return KeptPart(
        correction_position=correction_position,
        key=Key(int(row["position"]), int(row["line"]), bytes(row["authorization_id"])),
        number=number,
        line_number=int(row.get("line_number", 0)),
        net_micros=int(row["net_micros"]),
        tax_micros=int(row["tax_micros"]),
    )


def _session(row: Mapping[str, Any]) -> Session:
    return Session(
        authorization_id=bytes(row["authorization_id"]),
        gateway_id=row["gateway_id"],
        device_id=row["device_id"],
        first_at=Instant(row["first_at_us"]),
        last_at=Instant(row["last_at_us"]),
        code=bytes(row["code"]),
    )
