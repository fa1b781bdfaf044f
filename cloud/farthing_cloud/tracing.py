"""W3C Trace Context: which trace a call belongs to, from its metadata into log lines and on to the next service."""

import re
import secrets
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

#: https://www.w3.org/TR/trace-context/, version 00.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
_ZERO_TRACE = "0" * 32
_ZERO_SPAN = "0" * 16

_CURRENT: ContextVar[str | None] = ContextVar("farthing_traceparent", default=None)


def trace_of(traceparent: str | None) -> str | None:
    """The trace id in ``traceparent``, or None where it is no traceparent."""
    match = _TRACEPARENT.match(traceparent or "")
    if match is None or match[1] == _ZERO_TRACE or match[2] == _ZERO_SPAN:
        return None
    return match[1]


def enter(traceparent: str | None) -> str:
    """Go on with the caller's trace, or begin one, for the rest of this task; the trace id."""
    trace = trace_of(traceparent) or secrets.token_hex(16)
    _CURRENT.set(f"00-{trace}-{secrets.token_hex(8)}-01")
    return trace


def current() -> str | None:
    """The traceparent of this task, for what it sends on."""
    return _CURRENT.get()


if TYPE_CHECKING:
    # The stubs make it generic; the class itself is not.
    _Interceptor: TypeAlias = grpc.aio.UnaryUnaryClientInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.UnaryUnaryClientInterceptor


class ForwardTrace(_Interceptor):
    """Adds the task's traceparent to every unary call."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        traceparent = current()
        if traceparent is None:
            return await continuation(client_call_details, request)
        details: Any = client_call_details
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("traceparent", traceparent))
        return await continuation(details._replace(metadata=metadata), request)
