"""How a site's revenue is divided: split rules, versioned and dated, whose parts are always the whole.

Rule 1: a version never changes; what should change is a new version with a date that is not before the last one's.
Rule 2: a missing rule is a refusal that names the site, never a default.
Rule 3: a window is split by the rules in force at the instant it is closed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from farthing.clock import Instant
from farthing.ids import IdError, SiteId, parse_id
from farthing.money import PPM, format_micros

#: A rule is read and approved by people; a site with more parties than this needs an agency that divides further.
MAX_PARTS = 32
#: The wire carries it as uint32; a rule that changed hourly would take 70 years to get here.
MAX_VERSION = 2**19
#: The effective date of a site's first rule when none is named: before every window.
FROM_THE_BEGINNING = Instant(0)

_PATH = re.compile(r"(agency|fee)/[A-Za-z0-9-]{1,64}\Z")


class SplitRuleError(ValueError):
    """A rule that divides something else than the whole, or among parties that cannot be paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One party's share: ``path`` is ``agency/<id>`` or ``fee/<id>``, ``share_ppm`` parts per million."""

    path: str
    share_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How the clearing of one site is divided from ``effective_from_us`` on (µs since 1970, business time)."""

    operator_id: str
    site_id: SiteId
    version: int
    parts: tuple[Part, ...]
    remainder_path: str
    effective_from_us: Instant

    def __post_init__(self) -> None:
        try:
            parse_id(self.operator_id)
            parse_id(self.site_id)
        except IdError as err:
            raise SplitRuleError(str(err)) from err
        if not 1 <= self.version <= MAX_VERSION:
            raise SplitRuleError(f"a version is 1 to {MAX_VERSION}, not {self.version}")
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise SplitRuleError(f"a rule has 1 to {MAX_PARTS} parts, not {len(self.parts)}")
        paths = [part.path for part in self.parts]
        for path in paths:
            if not _PATH.match(path):
                raise SplitRuleError(f'a part goes to "agency/<id>" or "fee/<id>", not to {path!r:.80}')
        if len(set(paths)) != len(paths):
            raise SplitRuleError("each party has one part: add up the parts that go to the same path")
        if any(part.share_ppm <= 0 for part in self.parts):
            raise SplitRuleError("a part is more than nothing: leave out who gets none")
        total_ppm = sum(part.share_ppm for part in self.parts)
        if total_ppm != PPM:
            raise SplitRuleError(f"the parts make {percent(total_ppm)} % and must make 100 %")
        if self.remainder_path not in paths:
            raise SplitRuleError(f"the remainder goes to one of the parts, not to {self.remainder_path!r:.80}")
        if self.effective_from_us < 0:
            raise SplitRuleError("a rule takes effect after 1970")

    @property
    def agency_ids(self) -> tuple[str, ...]:
        """The agencies among the parties, without their prefix."""
        return tuple(part.path.removeprefix("agency/") for part in self.parts if part.path.startswith("agency/"))


def percent(share_ppm: int) -> str:
    """Parts per million as people write them: 605_000 is "60.5"."""
    whole, rest = divmod(share_ppm, 10_000)
    return str(whole) if not rest else f"{whole}.{rest:04d}".rstrip("0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one party gets of a sum."""

    path: str
    amount_micros: int


def shares(amount_micros: int, rule: SplitRule) -> tuple[Share, ...]:
    """Divide ``amount_micros`` by ``rule``: each part rounded down, what is left to the owner of the remainder.

    The shares always sum to the whole, for reversed (negative) sums too.
    """
    floors = {part.path: amount_micros * part.share_ppm // PPM for part in rule.parts}
    floors[rule.remainder_path] += amount_micros - sum(floors.values())
    return tuple(Share(path=part.path, amount_micros=floors[part.path]) for part in rule.parts)


def rule_in_force(rules: Iterable[SplitRule], *, at: Instant) -> SplitRule | None:
    """The latest version that has taken effect at the instant ``at``; None when there is none yet."""
    effective = [rule for rule in rules if rule.effective_from_us <= at]
    return max(effective, key=lambda rule: rule.version, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDraft:
    """A rule as asked for; ``effective_from_us`` None leaves the date to the order of versions."""

    operator_id: str
    site_id: SiteId
    version: int
    parts: tuple[Part, ...]
    remainder_path: str
    effective_from_us: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The same rule stands already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRule:
    """A version to store; ``differences`` compares it with the version before it, for people."""

    rule: SplitRule
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRefused:
    """Why a version cannot stand, and what to do instead."""

    reason: str


RuleDecision: TypeAlias = Unchanged | NewRule | RuleRefused


def put(stored: Sequence[SplitRule], draft: RuleDraft, *, now: Instant) -> RuleDecision:
    """Decide what becomes of ``draft`` beside the ``stored`` versions of the same site.

    Without a date, a first version counts from the beginning and a later one from now; raise ``SplitRuleError`` for a
    draft that no site could have.
    """
    last = max(stored, key=lambda rule: rule.version, default=None)
    default_from_us = FROM_THE_BEGINNING if last is None else max(now, last.effective_from_us)
    effective_from_us = default_from_us if draft.effective_from_us is None else draft.effective_from_us
    rule = SplitRule(
        operator_id=draft.operator_id,
        site_id=draft.site_id,
        version=draft.version,
        parts=tuple(sorted(draft.parts, key=lambda part: part.path)),
        remainder_path=draft.remainder_path,
        effective_from_us=effective_from_us,
    )

    same_version = next((other for other in stored if other.version == rule.version), None)
    if same_version is not None:
        if draft.effective_from_us is None:
            rule = replace(rule, effective_from_us=same_version.effective_from_us)
        if rule == same_version:
            return Unchanged()
        assert last is not None
        return RuleRefused(
            reason=f"version {rule.version} of site {rule.site_id} says something else and versions never change: "
            f"put version {last.version + 1}"
        )
    if last is None:
        return NewRule(rule=rule, differences=_differences(None, rule))
    if rule.version < last.version:
        return RuleRefused(
            reason=f"site {rule.site_id} is at version {last.version} already: put version {last.version + 1}"
        )
    if rule.effective_from_us < last.effective_from_us:
        return RuleRefused(
            reason=f"version {rule.version} of site {rule.site_id} would take effect before version {last.version}: "
            f"date it at or after {last.effective_from_us} µs"
        )
    return NewRule(rule=rule, differences=_differences(last, rule))


def _differences(old: SplitRule | None, new: SplitRule) -> tuple[str, ...]:
    before = {part.path: f"{percent(part.share_ppm)} %" for part in old.parts} if old else {}
    after = {part.path: f"{percent(part.share_ppm)} %" for part in new.parts}
    said = [
        f"{path}: {before.get(path, 'none')} -> {after.get(path, 'none')}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    old_remainder = old.remainder_path if old else "none"
    if old_remainder != new.remainder_path:
        said.append(f"remainder: {old_remainder} -> {new.remainder_path}")
    return tuple(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesMissing:
    """Money stands at sites that no rule in force divides."""

    #: site → micros in its clearing
    sites: Mapping[SiteId, int]

    @property
    def reason(self) -> str:
        """What is missing and what to do."""
        named = ", ".join(f"{site} ({format_micros(micros)})" for site, micros in sorted(self.sites.items()))
        return (
            f"no split rule in force for {named}: put one with 'farthing-admin split-rules put' or in the file of "
            "'farthing-admin apply', then close again"
        )


def choose(
    rules: Iterable[SplitRule], clearing_micros: Mapping[SiteId, int], *, at: Instant
) -> tuple[SplitRule, ...] | RulesMissing:
    """The rule of every site that has one in force at ``at``, by site id.

    Refused when a site with money in ``clearing_micros`` has none. Sites without money are named too: what is posted
    between this choice and the closing is divided like the rest.
    """
    by_site: dict[SiteId, list[SplitRule]] = {}
    for rule in rules:
        by_site.setdefault(rule.site_id, []).append(rule)
    in_force = {site: rule_in_force(versions, at=at) for site, versions in by_site.items()}
    chosen = {site: rule for site, rule in in_force.items() if rule is not None}
    missing = {site: micros for site, micros in clearing_micros.items() if micros != 0 and site not in chosen}
    if missing:
        return RulesMissing(sites=missing)
    return tuple(chosen[site] for site in sorted(chosen))
