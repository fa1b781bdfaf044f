"""At the end of the day every payer gets an invoice, and one use's receipt is found by the code that its device showed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from farthing.v1 import documents_pb2, documents_pb2_grpc
from farthing_demo import cast
from farthing_demo.processes import DemoError

#: Each account's movements are read once for its invoice and once to verify.
ANSWER_WITHIN_S = 60.0

SELLER = documents_pb2.Seller(
    operator_id=cast.OPERATOR,
    name="Metro of Farthing",
    address=documents_pb2.PostalAddress(street="1 Mint Lane", city="Farthing", postcode="10115", country="DE"),
    vat_id="DE123456789",
    invoice_prefix="INV-",
    credit_note_prefix="CN-",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paperwork:
    """What was issued, and what holding it against the ledger said. ``invoices``: account → number; ``receipt``: the document."""

    invoices: Mapping[str, str]
    invoiced_micros: int
    verified: documents_pb2.VerifyDocumentsResponse
    receipt: Mapping[str, Any]
    invoice: Mapping[str, Any]


class Clerk:
    """Asks for documents over the clerk's channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._documents = documents_pb2_grpc.DocumentsStub(channel)

    async def invoice_everyone(self, accounts: Sequence[str], *, until_us: int) -> tuple[dict[str, str], int]:
        """An invoice for each account that was billed anything; its number by account, and their exact sum in micros."""
        await self._documents.PutSeller(documents_pb2.PutSellerRequest(seller=SELLER), timeout=ANSWER_WITHIN_S)
        numbers: dict[str, str] = {}
        total_micros = 0
        for account in accounts:
            request = documents_pb2.IssueInvoiceRequest(
                operator_id=cast.OPERATOR, account_id=account, until_us=until_us
            )
            for document in (await self._documents.IssueInvoice(request, timeout=ANSWER_WITHIN_S)).documents:
                numbers[account] = document.number
                total_micros += document.exact_micros
        return numbers, total_micros

    async def verify(self) -> documents_pb2.VerifyDocumentsResponse:
        """Hold them all against the ledger."""
        request = documents_pb2.VerifyDocumentsRequest(operator_id=cast.OPERATOR)
        answer: documents_pb2.VerifyDocumentsResponse = await self._documents.VerifyDocuments(
            request, timeout=ANSWER_WITHIN_S
        )
        return answer

    async def finds(self, code: str) -> bool:
        """Whether the receipt with this code is there: documents hear of verified detail a moment after the ledger."""
        request = documents_pb2.MakeReceiptRequest(operator_id=cast.OPERATOR, code=code)
        try:
            await self._documents.MakeReceipt(request, timeout=ANSWER_WITHIN_S)
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True


def with_receipt(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The device's row of the use whose receipt is asked for: the longest session of a device that has no copy."""
    uses = [row for row in rows if row["kind"] == "use" and row["to"] > row["from"] and row["device"] != cast.CLONED]
    if not uses:
        raise DemoError("no device finished a use: nobody could ask for a receipt")
    return max(uses, key=lambda row: (row["ended_at_us"] - row["started_at_us"], row["authorization"]))
