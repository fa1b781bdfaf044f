"""CoAP: ``POST /statement`` and ``POST /tick`` protected by OSCORE (RFC 8613), with contexts from EDHOC (RFC 9528) at ``/.well-known/edhoc``.

Rule 1: an unprotected request reaches EDHOC and nothing else.
Rule 2: the device is the one the context was made with; its statement must be its own (the same rule as for a topic).
"""

import asyncio
import io
import socket
import time
from collections.abc import Callable
from typing import Any

import aiocoap
import cbor2
import structlog
from aiocoap import error, oscore
from aiocoap.numbers.codes import POST
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper
from aiocoap.resource import Resource, Site

from farthing.configuration import split_address
from farthing.device.messages import MAX_TICK_SIZE
from farthing.edhoc import EdhocError, OutOfTurn
from farthing.hsm import HsmBusy, HsmError
from farthing_edge.config import CoapSection
from farthing_edge.ingress.handshakes import (
    DeviceContext,
    EchoNeeded,
    Handshakes,
    HandshakesFull,
    split_message_3,
)
from farthing_edge.ingress.recent import bound_memory
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.ingress.ticks import TickDoor
from farthing_edge.metrics import Metrics

_log = structlog.get_logger(__name__)

EDHOC_PATH = (".well-known", "edhoc")
STATEMENT_PATH = ("statement",)
TICK_PATH = ("tick",)
#: application/edhoc+cbor-seq (RFC 9528, section 10.10).
EDHOC_CONTENT_FORMAT = 64
#: What a refused handshake is told to wait, seconds.
FULL_RETRY_S = 2
_MESSAGE_1_FIRST = cbor2.dumps(True)
#: Options that EDHOC's resource understands; another critical one is refused (RFC 7252, section 5.4.1).
_EDHOC_OPTIONS = frozenset({OptionNumber.URI_PATH, OptionNumber.URI_HOST, OptionNumber.URI_PORT})


class ListenError(Exception):
    """The address cannot be listened on; the message says what to do."""


class _Statements(Resource):  # type: ignore[misc]  # aiocoap ships no types
    """``POST /statement``: reached through a context only."""

    def __init__(self, door: StatementDoor) -> None:
        super().__init__()
        self._door = door

    async def render_post(self, request: Any) -> Any:
        context = request.remote.security_context
        assert isinstance(context, DeviceContext), "only protected requests come here"
        try:
            answer = await self._door.answer(request.payload, channel="coap", peer=context.device)
        except Exception:
            _log.exception("statement_failed", device=context.device)
            raise
        return aiocoap.Message(code=aiocoap.CHANGED, payload=answer)


class _Ticks(Resource):  # type: ignore[misc]  # aiocoap ships no types
    """``POST /tick``: taken at once; an answer comes as the response to a later tick, when there is something to say."""

    def __init__(self, ticks: TickDoor) -> None:
        super().__init__()
        self._ticks = ticks
        # The newest answer to each device that has not been fetched; bounded by the contexts there may be.
        self._answers: dict[str, bytes] = {}

    async def render_post(self, request: Any) -> Any:
        context = request.remote.security_context
        assert isinstance(context, DeviceContext), "only protected requests come here"
        device = context.device

        def say(answer: bytes) -> None:
            self._answers[device] = answer

        self._ticks.take(request.payload[: MAX_TICK_SIZE + 1], channel="coap", peer=device, say=say)
        return aiocoap.Message(code=aiocoap.CHANGED, payload=self._answers.pop(device, b""))


class _ProtectedSite(OscoreSiteWrapper):  # type: ignore[misc]  # aiocoap ships no types
    """aiocoap's OSCORE server over our handshakes."""

    def __init__(self, inner: Site, handshakes: Handshakes) -> None:
        super().__init__(inner, handshakes)
        self._handshakes = handshakes

    async def render_to_pipe(self, pipe: Any) -> None:
        request = pipe.request
        if request.opt.uri_path == EDHOC_PATH:
            pipe.add_response(await self._edhoc(request), is_last=True)
            return
        try:
            unprotected = oscore.verify_start(request)
        except oscore.NotAProtectedMessage:
            raise error.Unauthorized from None
        except oscore.DecodeError:
            raise error.BadOption from None
        if request.opt.edhoc:
            self._take_combined(request, unprotected)
        await super().render_to_pipe(pipe)

    def _take_combined(self, request: Any, unprotected: dict[int, bytes]) -> None:
        """message_3 in front of the first protected request (RFC 9668); a repeat finds the context already there."""
        c_r = unprotected.get(oscore.COSE_KID, b"")
        if not self._handshakes.is_half_open(c_r):
            return
        try:
            message_3, _ = split_message_3(request.payload)
            self._handshakes.complete(c_r, message_3)
        except EdhocError as err:
            raise _refused(err) from err

    async def _edhoc(self, request: Any) -> Any:
        if request.code is not POST:
            raise error.MethodNotAllowed
        if any(o.number.is_critical() and o.number not in _EDHOC_OPTIONS for o in request.opt.option_list()):
            raise error.BadOption
        payload = request.payload
        try:
            if payload[:1] == _MESSAGE_1_FIRST:
                message = await self._handshakes.open(
                    payload[1:], address=request.remote.hostinfo, echo=request.opt.echo
                )
            else:
                message = self._message_4(payload)
        except EchoNeeded as need:
            return aiocoap.Message(code=aiocoap.UNAUTHORIZED, echo=need.echo)
        except (HandshakesFull, HsmBusy):
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=FULL_RETRY_S)
        except HsmError:
            _log.exception("handshake_failed_in_token")
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=FULL_RETRY_S)
        except EdhocError as err:
            raise _refused(err) from err
        return aiocoap.Message(code=aiocoap.CHANGED, payload=message, content_format=EDHOC_CONTENT_FORMAT)

    def _message_4(self, payload: bytes) -> bytes:
        stream = io.BytesIO(payload)
        try:
            c_r = cbor2.load(stream)
        except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError):
            raise error.BadRequest from None
        if not isinstance(c_r, bytes):
            # Our identifiers have three bytes, so none of them travels as an integer.
            raise OutOfTurn("not an identifier of ours")
        return self._handshakes.complete(c_r, stream.read())


class _EdhocRefused(error.RenderableError):  # type: ignore[misc]  # aiocoap ships no types
    def __init__(self, message: bytes) -> None:
        super().__init__("EDHOC refused")
        self._message = message

    def to_message(self) -> Any:
        """An EDHOC error message (RFC 9528, section 6 and A.2)."""
        return aiocoap.Message(code=aiocoap.BAD_REQUEST, payload=self._message, content_format=EDHOC_CONTENT_FORMAT)


def _refused(err: EdhocError) -> _EdhocRefused:
    return _EdhocRefused(err.message)


def drop_what_is_no_text(context: Any, dropped: Callable[[], None]) -> int:
    """Drop what aiocoap's ``context`` cannot read as text, saying so to ``dropped``; how many readers do.

    aiocoap drops what is no message, but raises at an option whose text is no UTF-8, and the event loop prints a page of trace for each: anybody could fill the
    log's disk, without a word that is protected.
    """
    readers = 0
    for interface in context.request_interfaces:
        reader: Any = getattr(getattr(interface, "token_interface", None), "message_interface", None)
        for name in ("_received_datagram", "datagram_msg_received"):
            if hasattr(reader, name):
                setattr(reader, name, _dropping(getattr(reader, name), dropped))
                readers += 1
    return readers


def _dropping(receive: Callable[..., None], dropped: Callable[[], None]) -> Callable[..., None]:
    def received(*arguments: Any) -> None:
        try:
            receive(*arguments)
        except UnicodeDecodeError:
            dropped()

    return received


class CoapIngress:
    """One listener."""

    def __init__(self, *, section: CoapSection, door: StatementDoor, handshakes: Handshakes, metrics: Metrics) -> None:
        self._section = section
        self._handshakes = handshakes
        self._metrics = metrics
        site = Site()
        site.add_resource(STATEMENT_PATH, _Statements(door))
        site.add_resource(TICK_PATH, _Ticks(door.ticks))
        self._site = _ProtectedSite(site, handshakes)
        self._context: Any = None
        self.address = section.listen

    async def start(self) -> None:
        """Bind; ``address`` says where. Raise ``ListenError`` if the port is taken."""
        host, port = split_address(self._section.listen)
        port = _probe(host, port)
        anywhere = host in ("0.0.0.0", "::")  # noqa: S104 compared, not bound by default
        self._context = await aiocoap.Context.create_server_context(
            self._site,
            bind=(host, port),
            # The transport for one address answers from it; the other one asks the kernel for each packet.
            transports=["udp6" if anywhere else "simplesocketserver"],
        )
        bounded = bound_memory(self._context, clock_s=time.monotonic)
        assert bounded, "aiocoap remembers message ids elsewhere"
        readers = drop_what_is_no_text(self._context, self._metrics.unverified.labels("coap").inc)
        assert readers, "aiocoap reads datagrams elsewhere"
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{port}"

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._context.shutdown()


def _probe(host: str, port: int) -> int:
    """A port that is really free: aiocoap shares one that is taken (SO_REUSEPORT) without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as err:
            raise ListenError(
                f"coap.listen: cannot listen on {host}:{port} ({err.strerror}): "
                "stop what uses it, or write another port (0: any free one)"
            ) from err
        return int(probe.getsockname()[1])
