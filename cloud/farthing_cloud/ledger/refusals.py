"""One table from what the ledger says to what a caller hears; used by the door and the back office alike."""

from contextlib import AbstractAsyncContextManager

import grpc

from farthing.hsm import HsmError
from farthing.ids import IdError
from farthing.money import MoneyError
from farthing.policy import PolicyError
from farthing_cloud.ledger.core.funds import LedgerRefusal, OtherContent, UnknownName
from farthing_cloud.ledger.store.interface import StoreError
from farthing_cloud.refusals import Context, Refused
from farthing_cloud.refusals import refusals as end_with

__all__ = ["Context", "Refused", "malformed", "refusals"]


def malformed(details: str) -> Refused:
    """A request that no correct caller sends."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, details)


#: The first row that fits decides: a subclass stands before its parent.
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (IdError, grpc.StatusCode.INVALID_ARGUMENT),
    (MoneyError, grpc.StatusCode.INVALID_ARGUMENT),
    (PolicyError, grpc.StatusCode.INVALID_ARGUMENT),
    (OtherContent, grpc.StatusCode.ALREADY_EXISTS),
    (UnknownName, grpc.StatusCode.NOT_FOUND),
    (LedgerRefusal, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
    (HsmError, grpc.StatusCode.UNAVAILABLE),
)


def refusals(context: Context) -> AbstractAsyncContextManager[None]:
    """End the call with the code that fits a refusal; a bug of ours goes on up."""
    return end_with(context, _CODES)
