"""The shape of a service: what it offers on the listeners, and what it does in the background.

Every service package has ``build(*, pool, token, channel, clock, settings) -> Service``. ``build`` opens, starts and spawns
nothing; the composition root migrates the service's schema, opens its pool, mounts its servicers, and runs ``run``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import grpc.aio

#: Which of the two listeners a servicer is reached through: the gateways' door, or the back office.
Listener: TypeAlias = Literal["door", "back-office"]
#: The generated ``add_<Name>Servicer_to_server``. The stubs type it per servicer, hence ``Any``.
AddToServer: TypeAlias = Callable[[Any, grpc.aio.Server], None]
#: (add to server, servicer, listener)
Mounted: TypeAlias = tuple[AddToServer, object, Listener]


class Service(Protocol):
    """One job with its own schema, API and background work."""

    @property
    def servicers(self) -> Sequence[Mounted]:
        """What it answers, and where."""

    async def run(self) -> None:
        """Background work until cancelled. Returns at once where there is none; raises only for a bug of ours.

        A database or a peer that is gone is waited for, inside.
        """
