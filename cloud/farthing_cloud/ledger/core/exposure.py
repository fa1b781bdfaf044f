"""Maximum loss now: the most that could be lost at this moment, for each gateway (DESIGN 1, P1).

loss = quotas + floors + overrun, all micros of the gateway's currency:
  quotas   what is held for all its quotas, frozen ones too, if it is silent or not witnessed; else 0: then its journal speaks for them
  floors   what it may give away without a quota, over all tokens
  overrun  what it billed beyond holds and has not proven, and what it may still bill so: exposure − held − floor − billed, not below 0

So a silent gateway can cost its exposure, or what it holds where that is more (an exposure that was lowered); a gateway that is heard and
witnessed costs that much less as its open quotas are. Losses of gateways add up: no two hold the same money.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from farthing.clock import Instant
from farthing_cloud.ledger.core.rows import Gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The figure and its parts, micros; of one gateway, or a sum of several."""

    quotas_micros: int = 0
    floors_micros: int = 0
    overrun_micros: int = 0
    #: All that is held, whether the gateway is heard or not.
    open_micros: int = 0
    exposure_micros: int = 0
    #: Ever billed on quotas beyond what was held: what P1 counts as spending after a forced void or a rollback.
    late_micros: int = 0
    #: How many gateways are silent, and how many not witnessed.
    silent: int = 0
    unwitnessed: int = 0

    @property
    def maximum_micros(self) -> int:
        """The one figure."""
        return self.quotas_micros + self.floors_micros + self.overrun_micros


def loss_of(gateway: Gateway, *, open_micros: int, silent_us: int, now: Instant) -> Loss:
    """What a gateway can cost; ``open_micros`` is held for its quotas, and it is silent when not heard for ``silent_us``."""
    silent = now - gateway.contact_at > silent_us
    unwitnessed = not (gateway.trusted and gateway.adopted and gateway.witness_start_id)
    billed, floor = gateway.beyond_micros, gateway.floor_micros
    return Loss(
        quotas_micros=open_micros if silent or unwitnessed else 0,
        floors_micros=floor,
        overrun_micros=billed + max(0, gateway.exposure_micros - open_micros - floor - billed),
        open_micros=open_micros,
        exposure_micros=gateway.exposure_micros,
        late_micros=gateway.late_micros,
        silent=int(silent),
        unwitnessed=int(unwitnessed),
    )


def total(losses: Iterable[Loss]) -> Loss:
    """The sum of a site's or an operator's gateways."""
    parts = list(losses)
    return Loss(
        quotas_micros=sum(loss.quotas_micros for loss in parts),
        floors_micros=sum(loss.floors_micros for loss in parts),
        overrun_micros=sum(loss.overrun_micros for loss in parts),
        open_micros=sum(loss.open_micros for loss in parts),
        exposure_micros=sum(loss.exposure_micros for loss in parts),
        late_micros=sum(loss.late_micros for loss in parts),
        silent=sum(loss.silent for loss in parts),
        unwitnessed=sum(loss.unwitnessed for loss in parts),
    )
