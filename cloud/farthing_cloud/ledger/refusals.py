"""One table from what the ledger says to what a caller hears; used by the door and the back office alike."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from farthing.hsm import HsmError
from farthing.ids import IdError
from farthing.money import MoneyError
from farthing_cloud.ledger.core.funds import LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.store.interface import StoreError

Context = grpc.aio.ServicerContext[Any, Any]


class Refused(Exception):
    """A no to the caller."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def malformed(details: str) -> Refused:
    """A request that no correct caller sends."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, details)


#: The first row that fits decides: a subclass stands before its parent.
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (IdError, grpc.StatusCode.INVALID_ARGUMENT),
    (MoneyError, grpc.StatusCode.INVALID_ARGUMENT),
    (OtherContent, grpc.StatusCode.ALREADY_EXISTS),
    (UnknownName, grpc.StatusCode.NOT_FOUND),
    (LedgerRefusal, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
    (HsmError, grpc.StatusCode.UNAVAILABLE),
)


@asynccontextmanager
async def refusals(context: Context) -> AsyncIterator[None]:
    """End the call with the code that fits a refusal; a bug of ours goes on up."""
    try:
        yield
    except Refused as err:
        await context.abort(err.code, err.details)
    except tuple(kind for kind, _ in _CODES) as err:
        code = next(code for kind, code in _CODES if isinstance(err, kind))
        await context.abort(code, str(err) or type(err).__name__)
