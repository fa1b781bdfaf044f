"""How a connection ends: any part of it that is over ends the whole, and the next one begins."""

import asyncio
from collections.abc import Coroutine


class SessionOver(Exception):
    """This connection has to begin anew; not a fault."""


async def ending(part: Coroutine[object, object, None], *, endless: bool = True) -> None:
    """Run one part of a session so that its end, whatever it is, ends the session."""
    try:
        await part
    except asyncio.InvalidStateError as err:
        raise SessionOver("the cloud ended a stream while we wrote") from err
    except asyncio.CancelledError as err:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # A call that the other side cancelled comes as our own cancellation, which a task group would take for a quiet end.
        raise SessionOver("the cloud cancelled a call") from err
    if endless:
        raise SessionOver("a stream of the cloud ended")
