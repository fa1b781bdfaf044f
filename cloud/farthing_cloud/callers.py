"""Who may call what.

Rule 1: a caller is what its certificate says: one SAN URI ``spiffe://farthing/<kind>/<id>``, in a certificate that the
issuer of that kind signed itself. A sub-CA in the field (a gateway's ``site-ca``) can therefore not make a person.
Rule 2: each method lists its callers; what no row allows is refused, and a method without a row stops the start.
Rule 3: whether a gateway may still call is asked at each call, and its live streams end when it may no longer.
"""

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_URI = re.compile(r"spiffe://farthing/(gateway|person|service)/([A-Za-z0-9-]{1,64})\Z")


class CallerError(Exception):
    """The peer's certificate names nobody who may call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: ``kind`` is "gateway", "person" or "service"; ``id`` is unique within it."""

    kind: str
    id: str

    @property
    def uri(self) -> str:
        """The SAN URI that names it."""
        return f"spiffe://farthing/{self.kind}/{self.id}"


def parse_uris(uris: Sequence[str]) -> Caller:
    """The one caller that a certificate's SAN URIs name; raise ``CallerError`` for none, several or other forms."""
    if len(uris) != 1:
        raise CallerError(f"a client certificate names exactly one URI, this one has {len(uris)}")
    match = _URI.match(uris[0])
    if match is None:
        raise CallerError("the client certificate's URI is not spiffe://farthing/<gateway|person|service>/<id>")
    return Caller(kind=match[1], id=match[2])


#: Set by the interceptor for the time of one call, after it allowed it.
_CURRENT: ContextVar[Caller | None] = ContextVar("farthing_caller", default=None)


def set_caller(who: Caller | None) -> None:
    """Say who calls, for the rest of this task: the interceptor does so, and tests that call a servicer themselves."""
    _CURRENT.set(who)


def caller(context: Any) -> Caller:
    """Who makes the call that ``context`` (a ``grpc.aio.ServicerContext``) belongs to; raise ``CallerError`` for nobody."""
    current = _CURRENT.get()
    if current is not None:
        return current
    peer: Mapping[str, Sequence[bytes]] = context.auth_context()
    return parse_uris([uri.decode("utf-8", "replace") for uri in peer.get("peer_uri", ())])
