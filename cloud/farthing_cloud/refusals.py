"""A no to a caller of a service: its code and its sentence. Not an error: nothing is logged."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
#: What a service's core raises, and the code that says it; the first row that fits decides: a subclass stands before its parent.
Codes: TypeAlias = Sequence[tuple[type[Exception], grpc.StatusCode]]


class Refused(Exception):
    """The call is answered no; ``details`` says why and what to do."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@asynccontextmanager
async def refusals(context: Context, codes: Codes = ()) -> AsyncIterator[None]:
    """End the call with the code that fits a refusal; a bug of ours goes on up."""
    try:
        yield
    except Refused as err:
        await context.abort(err.code, err.details)
    except tuple(kind for kind, _ in codes) as err:
        code = next(code for kind, code in codes if isinstance(err, kind))
        await context.abort(code, str(err) or type(err).__name__)
