"""The operator's policies as directives set them last, and which rules they make active."""

from dataclasses import dataclass, field

from farthing.policy import PlacePolicy, Scorecard, UsageLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All of them, and which rules they make active (``rules.RULES_BY_POLICY``)."""

    limits: UsageLimits | None = None
    place: PlacePolicy | None = None
    scorecard: Scorecard | None = None
    online_check_ppm: int = 0
    #: Whether usage limits, places and risk are asked: worked out once, as every intent looks.
    active: tuple[bool, bool, bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asks_risk = self.scorecard is not None or self.online_check_ppm > 0
        object.__setattr__(self, "active", (self.limits is not None, self.place is not None, asks_risk))

    @property
    def remembers_tokens(self) -> bool:
        """Whether where and when a token was used matters later."""
        return self.place is not None or self.scorecard is not None
