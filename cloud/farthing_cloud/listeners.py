"""The two gRPC listeners: mTLS, who may call what, and what a call hears when something behind it is broken.

Rule 1: a servicer runs only after the caller was allowed; nothing of the request is read before.
Rule 2: a broken world (database or peer out of reach) is UNAVAILABLE with a sentence; a bug of ours is INTERNAL, logged once,
and tells the caller only the trace id.
"""

import asyncio
import contextlib
import inspect
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import psycopg
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counted

from farthing.hsm import HsmBusy
from farthing_cloud import tracing
from farthing_cloud.admission import Admission, AdmissionUnknown
from farthing_cloud.callers import Caller, CallerError, CallerTable, parse_uris, set_caller
from farthing_cloud.channel import KEEPALIVE_TIMEOUT_MS, MAX_MESSAGE_SIZE
from farthing_cloud.offering import Mounted

#: Calls at once on one listener; more hear RESOURCE_EXHAUSTED. A gateway has three streams and a few short calls.
MAX_CONCURRENT_CALLS = 4_096
#: Of them for one gateway: its own, and for some 40 s those of connections that were cut and begun again. Whoever has its keys leaves room to others.
MAX_CALLS_OF_GATEWAY = 64
#: Certificates whose issuer was checked and is remembered.
MAX_REMEMBERED_CERTIFICATES = 4_096

_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_SIZE),
    ("grpc.max_send_message_length", MAX_MESSAGE_SIZE),
    # Clients of ours ping every six to ten seconds even when idle; gRPC's default calls that abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # Two processes on one port would each get half of the gateways.
    ("grpc.so_reuseport", 0),
)

_log = structlog.stdlib.get_logger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves are not.
    _Interceptor: TypeAlias = grpc.aio.ServerInterceptor[Any, Any]
    _Handlers: TypeAlias = grpc.GenericRpcHandler[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor
    _Handlers = grpc.GenericRpcHandler


class ListenError(Exception):
    """A listener cannot be opened; the message says what to do."""


# --- metrics ----------------------------------------------------------------------------------------------------------


class CallMetrics:
    """What the listeners count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counted(
            "farthing_cloud_calls", "Calls answered, by method and status code.", ("method", "code"), registry=registry
        )
        self.refused = Counted(
            "farthing_cloud_callers_refused",
            "Calls refused before a servicer ran.",
            ("method", "why"),
            registry=registry,
        )


# --- identity ---------------------------------------------------------------------------------------------------------


class Issuers:
    """Which issuer may vouch for which kind of caller: persons and gateways the root itself, services the issuing key."""

    def __init__(self, *, root: bytes, issuing: bytes) -> None:
        """``root`` and ``issuing`` are PEM."""
        root_certificate = x509.load_pem_x509_certificate(root)
        self._by_kind = {
            "gateway": root_certificate,
            "person": root_certificate,
            "service": x509.load_pem_x509_certificate(issuing),
        }
        self._known: OrderedDict[tuple[str, bytes], bool] = OrderedDict()

    def vouched(self, kind: str, certificate: bytes) -> bool:
        """Whether the issuer for ``kind`` itself signed the PEM ``certificate``."""
        key = (kind, certificate)
        known = self._known.get(key)
        if known is None:
            known = self._verify(kind, certificate)
            self._known[key] = known
            if len(self._known) > MAX_REMEMBERED_CERTIFICATES:
                self._known.popitem(last=False)
        return known

    def _verify(self, kind: str, certificate: bytes) -> bool:
        try:
            x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(self._by_kind[kind])
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


class _Refused(Exception):
    """Not this caller, not now."""

    def __init__(self, *, code: grpc.StatusCode, why: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.why = why
        self.details = details


class Doorkeeper(_Interceptor):
    """Allows or refuses each call, names its trace, and translates what goes wrong."""

    def __init__(
        self, *, table: CallerTable, issuers: Issuers, admission: Admission | None, metrics: CallMetrics
    ) -> None:
        self._table = table
        self._issuers = issuers
        self._admission = admission
        self._metrics = metrics
        self._calls_of: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler; what has no handler is answered UNIMPLEMENTED by gRPC itself."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            wrap = self._streaming(method, behaviour)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            wrap = self._single(method, behaviour)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(
            wrap,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _single(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            call = _Call(self, method, context)
            async with call:
                return await behaviour(request, context)

        return answer

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            call = _Call(self, method, context)
            async with call as who:
                replies = behaviour(request, context)
                if inspect.isawaitable(replies):
                    await replies  # it wrote its answers itself, through the context
                    return
                if who.kind == "gateway":
                    replies = self._until_left(replies, who)
                try:
                    async for reply in replies:
                        yield reply
                finally:
                    await replies.aclose()

        return answer

    async def _until_left(self, replies: AsyncGenerator[Any, None], who: Caller) -> AsyncGenerator[Any, None]:
        """``replies`` until the gateway may no longer call; then raise ``_Refused``.

        The servicer runs in a task of its own, because cancelling gRPC's task can hit it in the middle of a write, and the
        caller would never hear the end.
        """
        assert self._admission is not None, "admit refused the gateway"
        left = asyncio.get_running_loop().create_future()
        ready: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

        async def pump() -> None:
            async for reply in replies:
                await ready.put(reply)

        def leave() -> None:
            if not left.done():
                left.set_result(None)

        unwatch = self._admission.watch(who.id, leave)
        pumping = asyncio.create_task(pump())
        try:
            while True:
                taking = asyncio.create_task(ready.get())
                try:
                    await asyncio.wait((taking, pumping, left), return_when=asyncio.FIRST_COMPLETED)
                    if left.done():
                        raise _not_active(who.id)
                    if taking.done():
                        yield taking.result()
                        continue
                finally:
                    taking.cancel()
                if not ready.empty():
                    continue
                # The servicer has ended and all it said was taken: what it raised is raised here.
                pumping.result()
                return
        finally:
            unwatch()
            pumping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((pumping,))
            if not pumping.cancelled():
                pumping.exception()

    async def admit(self, method: str, context: Context) -> Caller:
        """Who calls, if it may; raise ``_Refused`` otherwise."""
        peer = context.auth_context()
        try:
            who = parse_uris([uri.decode("utf-8", "replace") for uri in peer.get("peer_uri", ())])
        except CallerError as err:
            raise _Refused(code=grpc.StatusCode.UNAUTHENTICATED, why="certificate", details=str(err)) from err
        certificates = tuple(peer.get("x509_pem_cert", ()))
        if len(certificates) != 1 or not self._issuers.vouched(who.kind, certificates[0]):
            raise _Refused(
                code=grpc.StatusCode.UNAUTHENTICATED,
                why="issuer",
                details=f"the certificate's issuer may not vouch for a {who.kind}",
            )
        if not self._table.allows(method, who):
            raise _Refused(
                code=grpc.StatusCode.PERMISSION_DENIED,
                why="callers",
                details=f"{who.kind} {who.id} may not call {method}",
            )
        if who.kind == "gateway":
            await self._check_gateway(who.id)
            if self._calls_of[who.id] >= MAX_CALLS_OF_GATEWAY:
                raise _Refused(
                    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                    why="calls",
                    details=f"gateway {who.id} has {MAX_CALLS_OF_GATEWAY} calls under way: end some, or wait until they are found cut off",
                )
            self._calls_of[who.id] += 1
        return who

    def ended(self, who: Caller) -> None:
        """A call that was admitted is over."""
        if who.kind == "gateway":
            self._calls_of[who.id] -= 1
            if not self._calls_of[who.id]:
                del self._calls_of[who.id]

    async def _check_gateway(self, gateway_id: str) -> None:
        if self._admission is None:
            raise _Refused(
                code=grpc.StatusCode.PERMISSION_DENIED, why="listener", details="gateways use the other listener"
            )
        try:
            admitted = await self._admission.admits(gateway_id)
        except AdmissionUnknown as err:
            raise _Refused(code=grpc.StatusCode.UNAVAILABLE, why="admission", details=str(err)) from err
        if not admitted:
            raise _not_active(gateway_id)

    @property
    def metrics(self) -> CallMetrics:
        """What is counted."""
        return self._metrics


def _not_active(gateway_id: str) -> _Refused:
    return _Refused(
        code=grpc.StatusCode.PERMISSION_DENIED, why="status", details=f"gateway {gateway_id} is not known or not active"
    )


class _Call:
    """One call from admission to its status code, as a context manager around the servicer."""

    def __init__(self, keeper: Doorkeeper, method: str, context: Context) -> None:
        self._keeper = keeper
        self._method = method
        self._context = context
        self._trace = ""
        self._who: Caller | None = None

    async def __aenter__(self) -> Caller:
        metadata = dict(self._context.invocation_metadata() or ())
        self._trace = tracing.enter(str(metadata.get("traceparent", "")))
        structlog.contextvars.bind_contextvars(trace_id=self._trace, method=self._method)
        try:
            who = await self._keeper.admit(self._method, self._context)
        except _Refused as refused:
            self._keeper.metrics.refused.labels(self._method, refused.why).inc()
            _log.info("caller refused", why=refused.why, details=refused.details)
            await self._abort(refused.code, refused.details)
            raise AssertionError("abort raises") from refused
        self._who = who
        set_caller(who)
        structlog.contextvars.bind_contextvars(caller=who.uri)
        return who

    async def __aexit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: object) -> None:
        assert self._who is not None
        self._keeper.ended(self._who)
        if err is None:
            # A servicer may have set a code itself.
            self._count(self._context.code())
            return
        if isinstance(err, _Refused):
            self._keeper.metrics.refused.labels(self._method, err.why).inc()
            _log.info("live call ended", details=err.details)
            await self._abort(err.code, err.details)
        if isinstance(err, grpc.aio.AbortError):
            self._count(self._context.code())
            return
        if isinstance(err, (asyncio.CancelledError, GeneratorExit)):
            self._count(grpc.StatusCode.CANCELLED)
            return
        code, details = self._translate(err)
        await self._abort(code, details)

    def _translate(self, err: BaseException) -> tuple[grpc.StatusCode, str]:
        if isinstance(err, (psycopg.OperationalError, psycopg.InterfaceError)):
            _log.warning("the database is out of reach", cause=str(err).strip())
            return (
                grpc.StatusCode.UNAVAILABLE,
                "the database is out of reach; this call was done wholly or not at all: repeat it",
            )
        if isinstance(err, psycopg.DataError) and err.sqlstate is None:
            # Refused before it was sent: PostgreSQL keeps no text with a NUL in it, so no name of ours has one.
            return grpc.StatusCode.INVALID_ARGUMENT, str(err)
        if isinstance(err, HsmBusy):
            return grpc.StatusCode.UNAVAILABLE, "the token has too much to do; repeat the call"
        if isinstance(err, CallerError):
            return grpc.StatusCode.PERMISSION_DENIED, str(err)
        if isinstance(err, grpc.aio.AioRpcError):
            # A peer's word: its code and sentence were made for callers.
            return err.code(), err.details() or "a service behind this one failed"
        _log.error("a call failed for a fault of ours", exc_info=err)
        return grpc.StatusCode.INTERNAL, f"a fault of ours; the log has it under trace {self._trace}"

    async def _abort(self, code: grpc.StatusCode, details: str) -> None:
        self._count(code)
        await self._context.abort(code, details)

    def _count(self, code: Any) -> None:
        if isinstance(code, int):
            name = _CODE_NAMES.get(code, "OK")
        else:
            name = code.name if isinstance(code, grpc.StatusCode) else "OK"
        self._keeper.metrics.calls.labels(self._method, name).inc()


_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


# --- servers ----------------------------------------------------------------------------------------------------------


class _Recorder:
    """Stands before a server while servicers are added, and notes which methods they bring."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server: Any = server
        self.methods: list[str] = []
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[_Handlers]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        self._server.add_registered_method_handlers(service_name, method_handlers)
        self.services.append(service_name)
        self.methods += [f"/{service_name}/{name}" for name in method_handlers]


class ListenerServer:
    """One listener: made and bound first (so that its port is known), filled with servicers, then started."""

    def __init__(self, *, name: str, address: str, credentials: grpc.ServerCredentials, keeper: Doorkeeper) -> None:
        """Bind ``address``; raise ``ListenError`` if that is not possible."""
        self._server = grpc.aio.server(
            interceptors=(keeper,), options=_SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        host = address.rpartition(":")[0]
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as err:
            raise ListenError(
                f"the {name} cannot listen on {address}: another process has that port, or the host is not ours;"
                " set another one, or port 0 for any free one"
            ) from err
        self.address = f"{host}:{port}"
        self._health = HealthServicer()

    async def start(self, mounted: Sequence[Mounted], *, table: CallerTable, reflect: bool) -> None:
        """Add the servicers and open. Raise ``CallerTableError`` for a method that lists no callers."""
        recorder = _Recorder(self._server)
        for add, servicer, _ in mounted:
            add(servicer, recorder)  # type: ignore[arg-type]  # it has the two methods that generated code calls
        ours = tuple(recorder.services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, recorder)
        if reflect:
            names = (*ours, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), recorder)
        table.check_listed(recorder.methods)
        for service in ("", *ours):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def say(self, *, serving: bool) -> None:
        """Tell health's clients whether calls can be answered."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; give those under way ``grace_s``."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
