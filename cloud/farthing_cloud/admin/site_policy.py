"""What a site's gateways apply beside floor and seal, as the file of ``farthing-admin apply`` says it; what is not said is no rule."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from farthing.configuration import Section
from farthing.device.messages import MAX_LATITUDE, MAX_LONGITUDE
from farthing.policy import HOURS, MAX_STEPS
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.admin.exact import Micros, SharePpm, exactly, microdegrees

Count = Annotated[int, Field(ge=0, le=2**32 - 1)]
Points = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Degrees = Annotated[int, BeforeValidator(exactly(microdegrees))]

ACTIONS: Mapping[str, directive_pb2.RiskAction.ValueType] = {
    "allow": directive_pb2.RISK_ACTION_ALLOW,
    "shrink": directive_pb2.RISK_ACTION_SHRINK,
    "online-only": directive_pb2.RISK_ACTION_ONLINE_ONLY,
    "refuse": directive_pb2.RISK_ACTION_REFUSE,
}


EvidenceClass = Literal["device-signed", "station-attested", "gateway-attested"]
EVIDENCE_CLASSES: Mapping[EvidenceClass, batch_pb2.EvidenceClass.ValueType] = {
    "device-signed": batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
    "station-attested": batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED,
    "gateway-attested": batch_pb2.EVIDENCE_CLASS_GATEWAY_ATTESTED,
}


class Place(Section):
    """Degrees (WGS 84) as text: "52.520008"."""

    latitude: Annotated[Degrees, Field(ge=-MAX_LATITUDE, le=MAX_LATITUDE)]
    longitude: Annotated[Degrees, Field(ge=-MAX_LONGITUDE, le=MAX_LONGITUDE)]

    def message(self) -> directive_pb2.Position:
        """As directives carry it."""
        return directive_pb2.Position(latitude_microdegrees=self.latitude, longitude_microdegrees=self.longitude)


class Limits(Section):
    """What one authorization, a token's day, a device's day, and all of them without the cloud may use; 0 is no limit."""

    per_authorization: Micros = 0
    token_day_count: Count = 0
    token_day: Micros = 0
    device_day_count: Count = 0
    device_day: Micros = 0
    offline_count: Count = 0
    offline: Micros = 0

    def message(self) -> directive_pb2.UsageLimits:
        """As directives carry it."""
        return directive_pb2.UsageLimits(
            per_authorization_micros=self.per_authorization,
            token_day_count=self.token_day_count,
            token_day_micros=self.token_day,
            device_day_count=self.device_day_count,
            device_day_micros=self.device_day,
            offline_count=self.offline_count,
            offline_micros=self.offline,
        )


class Places(Section):
    """Where use may begin, and how fast a token may travel; 0 is no rule."""

    centre: Place | None = None
    fence_radius_m: Count = 0
    moved_m: Count = 0
    travel_distance_m: Count = 0
    travel_speed_km_per_h: Annotated[int, Field(ge=0, le=4_000_000)] = 0

    def message(self) -> directive_pb2.PlacePolicy:
        """As directives carry it."""
        return directive_pb2.PlacePolicy(
            centre=None if self.centre is None else self.centre.message(),
            fence_radius_m=self.fence_radius_m,
            moved_m=self.moved_m,
            travel_distance_m=self.travel_distance_m,
            travel_speed_m_per_h=self.travel_speed_km_per_h * 1_000,
        )


class Step(Section):
    """Values from this one on have these points."""

    start: Annotated[int, Field(ge=0, le=2**63 - 1)]
    points: Points

    def message(self) -> directive_pb2.ScoreStep:
        """As directives carry it."""
        return directive_pb2.ScoreStep(**{"from": self.start, "points": self.points})


class AmountStep(Section):
    """Amounts from this one on have these points."""

    start: Micros
    points: Points

    def message(self) -> directive_pb2.ScoreStep:
        """As directives carry it."""
        return directive_pb2.ScoreStep(**{"from": self.start, "points": self.points})


class Tier(Section):
    """Sums of points from this one on."""

    start: Points
    action: Literal["allow", "shrink", "online-only", "refuse"]
    hold: Micros = 0

    def message(self) -> directive_pb2.ScoreTier:
        """As directives carry it."""
        tier = directive_pb2.ScoreTier(action=ACTIONS[self.action], hold_micros=self.hold)
        setattr(tier, "from", self.start)
        return tier


class Scorecard(Section):
    """Points for what is known of an intent, and what their sum leads to."""

    version: Annotated[int, Field(ge=1, le=2**32 - 1)]
    hour_points: Annotated[tuple[Points, ...], Field(strict=False, max_length=HOURS)] = ()
    amount: Annotated[tuple[AmountStep, ...], Field(strict=False, max_length=MAX_STEPS)] = ()
    recent: Annotated[tuple[Step, ...], Field(strict=False, max_length=MAX_STEPS)] = ()
    distance_m: Annotated[tuple[Step, ...], Field(strict=False, max_length=MAX_STEPS)] = ()
    new_token_points: Points = 0
    offline_points: Points = 0
    tiers: Annotated[tuple[Tier, ...], Field(strict=False, max_length=MAX_STEPS)]

    def message(self) -> directive_pb2.Scorecard:
        """As directives carry it."""
        return directive_pb2.Scorecard(
            version=self.version,
            hour_points=self.hour_points,
            amount_steps=[step.message() for step in self.amount],
            recent_steps=[step.message() for step in self.recent],
            distance_steps=[step.message() for step in self.distance_m],
            new_token_points=self.new_token_points,
            offline_points=self.offline_points,
            tiers=[tier.message() for tier in self.tiers],
        )


class OnlineCheck(Section):
    """This share of intents waits for the cloud's word while there is an uplink."""

    percent: SharePpm

    def message(self) -> directive_pb2.OnlineCheck:
        """As directives carry it."""
        return directive_pb2.OnlineCheck(share_ppm=self.percent)
