"""JSON lines on standard error, one event each, with the trace of the message that caused it where there is one."""

import logging
import re
import sys
from collections.abc import Iterable

# structlog's renderer for developers' terminals, which this daemon never writes to, loads rich where it finds it: 66 modules, a twentieth of a start.
# An entry of None is how an import is told that there is nothing (Python's reference, 5.3.1); whoever wants rich finds it again after.
_has_rich = "rich" in sys.modules
if not _has_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]  # what the reference says and the stubs do not
try:
    import structlog
finally:
    if not _has_rich:
        del sys.modules["rich"]

#: W3C Trace Context, version 00: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

#: These log what is not theirs to tell (payloads, addresses at a rate) or what we say better ourselves.
_QUIET = ("mqtt", "coap", "coap-server", "uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "asyncio")


def configure_logs(level: str, *, quiet: Iterable[str] = _QUIET) -> None:
    """Set up structlog for this process; libraries' own logs below a warning are dropped."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    for name in quiet:
        logging.getLogger(name).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a ``traceparent``, or None where there is none that W3C Trace Context allows."""
    match = None if traceparent is None else _TRACEPARENT.match(traceparent)
    if match is None or match[1] == "0" * 32 or match[2] == "0" * 16:
        return None
    return match[1]
