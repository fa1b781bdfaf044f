"""What an operator allows beside money: usage limits, places, the scorecard, the online check, entitlements; as directive.proto carries
them.

Rule 1: the registry refuses what a gateway could not obey, because both read it here.
Rule 2: numbers are integers in the unit their name ends in; 0 is no limit, and a policy that sets none is None.
Rule 3: what makes no sense raises ``PolicyError`` with the field's name.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from farthing.clock import Instant
from farthing.device.messages import MAX_COUNT, MessageError, Position, TariffVersion
from farthing.ids import AccountId, IdError, TariffId, parse_id
from farthing.money import MAX_AMOUNT_MICROS, PPM
from farthing.v1 import directive_pb2

HOURS = 24
#: Steps of one feature and tiers of a scorecard: people write them, and each is looked up for each intent.
MAX_STEPS = 64

#: Tariffs whose devices an entitlement covers: an operator has some dozens.
MAX_DEVICE_TARIFFS = 64
_UNIT = re.compile(r"[A-Za-z][A-Za-z0-9]{0,15}\Z")


class PolicyError(ValueError):
    """A policy that makes no sense; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """What one authorization, one token, one device may use, and all of them while the cloud cannot be asked."""

    per_authorization_micros: int = 0
    token_day_count: int = 0
    token_day_micros: int = 0
    device_day_count: int = 0
    device_day_micros: int = 0
    offline_count: int = 0
    offline_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacePolicy:
    """Where use may begin, and how fast a token may travel."""

    centre: Position | None = None
    fence_radius_m: int = 0
    moved_m: int = 0
    travel_distance_m: int = 0
    travel_speed_m_per_h: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Points by a value: those of the highest step that the value reaches, 0 below the first."""

    starts: tuple[int, ...] = ()
    points: tuple[int, ...] = ()

    def points_of(self, value: int) -> int:
        """The points that ``value`` has."""
        index = bisect_right(self.starts, value)
        return self.points[index - 1] if index else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What a sum of points leads to; ``hold_micros`` only where the hold shrinks."""

    start: int
    action: int
    hold_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """Integer points for what is known of an intent, and tiers of their sum."""

    version: int
    hour_points: tuple[int, ...]
    amount: Steps
    recent: Steps
    distance: Steps
    new_token_points: int
    offline_points: int
    tiers: tuple[Tier, ...]

    def tier_of(self, points: int) -> Tier | None:
        """The highest tier that ``points`` reach; None below the first."""
        index = bisect_right(self.tiers, points, key=lambda tier: tier.start)
        return self.tiers[index - 1] if index else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """A payer's right to use under ``tariff``, paid by an account of its own; for uses that begin from one instant until another.

    ``device_tariffs``: covers devices that work under one of them, empty: under any; ``unit``: registers of it, empty: of any.
    """

    id: str
    account_id: AccountId
    paid_by: AccountId
    tariff: TariffVersion
    device_tariffs: tuple[str, ...]
    unit: str
    begins_at: Instant
    ends_at: Instant
    priority: int


def position_of(message: directive_pb2.Position) -> Position:
    """Raise ``PolicyError`` for a place that is not on earth."""
    try:
        return Position(
            latitude_microdegrees=message.latitude_microdegrees, longitude_microdegrees=message.longitude_microdegrees
        )
    except MessageError as err:
        raise PolicyError(err.reason) from err


def usage_limits_of(message: directive_pb2.UsageLimits) -> UsageLimits | None:
    """The limits as said; None when none of them is set. Raise ``PolicyError`` for one below 0."""
    limits = UsageLimits(
        per_authorization_micros=_amount("per_authorization_micros", message.per_authorization_micros),
        token_day_count=message.token_day_count,
        token_day_micros=_amount("token_day_micros", message.token_day_micros),
        device_day_count=message.device_day_count,
        device_day_micros=_amount("device_day_micros", message.device_day_micros),
        offline_count=message.offline_count,
        offline_micros=_amount("offline_micros", message.offline_micros),
    )
    return None if limits == UsageLimits() else limits


def place_policy_of(message: directive_pb2.PlacePolicy) -> PlacePolicy | None:
    """The policy as said; None when it says nothing. Raise ``PolicyError`` for a fence around nowhere."""
    if message.fence_radius_m and not message.HasField("centre"):
        raise PolicyError("fence_radius_m: a fence has a centre")
    policy = PlacePolicy(
        centre=position_of(message.centre) if message.HasField("centre") else None,
        fence_radius_m=message.fence_radius_m,
        moved_m=message.moved_m,
        travel_distance_m=message.travel_distance_m,
        travel_speed_m_per_h=message.travel_speed_m_per_h,
    )
    asks = policy.fence_radius_m or policy.moved_m or policy.travel_speed_m_per_h
    return policy if asks else None


def scorecard_of(message: directive_pb2.Scorecard) -> Scorecard | None:
    """The scorecard as said; None when it has no tiers. Raise ``PolicyError`` for steps that do not ascend, or hours missing."""
    if not message.tiers:
        return None
    if len(message.hour_points) not in (0, HOURS):
        raise PolicyError(f"hour_points: {HOURS} of them, or none")
    _ascending((tier.start for tier in _tiers(message)), "tiers")
    for tier in message.tiers:
        if tier.action not in directive_pb2.RiskAction.values() or not tier.action:
            raise PolicyError("tiers.action: allow, shrink, online-only or refuse")
        _amount("tiers.hold_micros", tier.hold_micros)
    return Scorecard(
        version=message.version,
        hour_points=tuple(message.hour_points),
        amount=_steps(message.amount_steps, "amount_steps"),
        recent=_steps(message.recent_steps, "recent_steps"),
        distance=_steps(message.distance_steps, "distance_steps"),
        new_token_points=message.new_token_points,
        offline_points=message.offline_points,
        tiers=_tiers(message),
    )


def online_check_ppm_of(message: directive_pb2.OnlineCheck) -> int:
    """The share as said. Raise ``PolicyError`` for more than the whole."""
    if message.share_ppm > PPM:
        raise PolicyError("share_ppm: more than the whole")
    return message.share_ppm


def entitlement_of(message: directive_pb2.EntitlementRecord) -> Entitlement:
    """The entitlement as said. Raise ``PolicyError`` for what is no id, no unit, or pays for itself."""
    if message.unit and not _UNIT.match(message.unit):
        raise PolicyError('unit: a short word such as "Wh", "s", "passage"')
    if not 0 <= message.from_us <= message.until_us <= MAX_COUNT:
        raise PolicyError("until_us: not before from_us")
    if message.paid_by_account_id == message.account_id:
        raise PolicyError("paid_by_account_id: an account of its own")
    if len(message.device_tariff_ids) > MAX_DEVICE_TARIFFS:
        raise PolicyError(f"device_tariff_ids: at most {MAX_DEVICE_TARIFFS}")
    if message.tariff_version < 1:
        raise PolicyError("tariff_version: counts from 1")
    try:
        return Entitlement(
            id=parse_id(message.entitlement_id),
            account_id=AccountId(parse_id(message.account_id)),
            paid_by=AccountId(parse_id(message.paid_by_account_id)),
            tariff=TariffVersion(tariff_id=TariffId(parse_id(message.tariff_id)), version=message.tariff_version),
            device_tariffs=tuple(parse_id(tariff_id) for tariff_id in message.device_tariff_ids),
            unit=message.unit,
            begins_at=Instant(message.from_us),
            ends_at=Instant(message.until_us),
            priority=message.priority,
        )
    except (IdError, MessageError) as err:
        raise PolicyError(str(err)) from err


def _tiers(message: directive_pb2.Scorecard) -> tuple[Tier, ...]:
    return tuple(
        Tier(start=getattr(tier, "from"), action=tier.action, hold_micros=tier.hold_micros) for tier in message.tiers
    )


def _steps(steps: Iterable[directive_pb2.ScoreStep], what: str) -> Steps:
    pairs = [(getattr(step, "from"), step.points) for step in steps]
    _ascending((start for start, _ in pairs), what)
    return Steps(starts=tuple(start for start, _ in pairs), points=tuple(points for _, points in pairs))


def _ascending(starts: Iterable[int], what: str) -> None:
    values = list(starts)
    if len(values) > MAX_STEPS:
        raise PolicyError(f"{what}: at most {MAX_STEPS}")
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise PolicyError(f"{what}: each begins above the one before")


def _amount(name: str, micros: int) -> int:
    if not 0 <= micros <= MAX_AMOUNT_MICROS:
        raise PolicyError(f"{name}: an amount is 0 to {MAX_AMOUNT_MICROS} micros")
    return micros
