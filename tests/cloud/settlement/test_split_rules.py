"""Parts are always the whole; versions never change; a missing rule is never a default."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.ids import SiteId
from farthing_cloud.settlement.rules import (
    NewRule,
    Part,
    RuleDraft,
    RuleRefused,
    RulesMissing,
    SplitRule,
    SplitRuleError,
    Unchanged,
    choose,
    put,
    rule_in_force,
    shares,
)

S1, S2 = SiteId("S1"), SiteId("S2")
PARTS = (
    Part(path="agency/A", share_ppm=600_000),
    Part(path="agency/B", share_ppm=300_000),
    Part(path="fee/op", share_ppm=100_000),
)


def rule(version: int = 1, *, site: SiteId = S1, since: int = 0, parts: tuple[Part, ...] = PARTS) -> SplitRule:
    return SplitRule(
        operator_id="op",
        site_id=site,
        version=version,
        parts=parts,
        remainder_path="agency/A",
        effective_from_us=Instant(since),
    )


def draft(version: int = 1, *, since: int | None = None, parts: tuple[Part, ...] = PARTS, **changes: Any) -> RuleDraft:
    made = RuleDraft(
        operator_id="op",
        site_id=S1,
        version=version,
        parts=parts,
        remainder_path="agency/A",
        effective_from_us=None if since is None else Instant(since),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("amount_micros", "expected"),
    [
        (7_246_495, (4_347_898, 2_173_948, 724_649)),
        (2_031_495, (1_218_898, 609_448, 203_149)),
        (1_121_495, (672_898, 336_448, 112_149)),
        (15_000, (9_000, 4_500, 1_500)),
        (0, (0, 0, 0)),
        (1, (1, 0, 0)),
    ],
)
def test_the_worked_examples_splits(amount_micros: int, expected: tuple[int, ...]) -> None:
    assert tuple(share.amount_micros for share in shares(amount_micros, rule())) == expected


@st.composite
def rules(draw: st.DrawFn) -> SplitRule:
    cuts = sorted(draw(st.sets(st.integers(1, 999_999), max_size=6)))
    edges = [0, *cuts, 1_000_000]
    parts = tuple(
        Part(path=f"agency/a{n}", share_ppm=after - before)
        for n, (before, after) in enumerate(itertools.pairwise(edges))
    )
    owner = draw(st.sampled_from(parts)).path
    return dataclasses.replace(rule(), parts=parts, remainder_path=owner)


@given(made=rules(), amount_micros=st.integers(-(10**15), 10**15))
def test_shares_sum_to_the_whole(made: SplitRule, amount_micros: int) -> None:
    divided = shares(amount_micros, made)
    assert sum(share.amount_micros for share in divided) == amount_micros
    for share, part in zip(divided, made.parts, strict=True):
        exact = amount_micros * part.share_ppm
        if amount_micros >= 0:
            assert share.amount_micros >= 0
        if part.path == made.remainder_path:
            assert exact - 1_000_000 < share.amount_micros * 1_000_000 < exact + 1_000_000 * len(made.parts)
        else:
            assert exact - 1_000_000 < share.amount_micros * 1_000_000 <= exact


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"parts": ()}, "1 to 32 parts"),
        ({"parts": PARTS[:2]}, "make 90 % and must make 100 %"),
        ({"parts": (*PARTS, Part(path="fee/x", share_ppm=1))}, "make 100.0001 %"),
        ({"parts": (*PARTS[:2], Part(path="agency/A", share_ppm=100_000))}, "one part"),
        ({"parts": (*PARTS, Part(path="fee/x", share_ppm=0))}, "more than nothing"),
        ({"parts": (*PARTS[:2], Part(path="payer/P", share_ppm=100_000))}, "agency/<id>"),
        ({"parts": (*PARTS[:2], Part(path="agency/a/b", share_ppm=100_000))}, "agency/<id>"),
        ({"remainder_path": "fee/nobody"}, "one of the parts"),
        ({"version": 0}, "a version is 1"),
        ({"site_id": "a/b"}, "an id is"),
        ({"effective_from_us": -1}, "after 1970"),
    ],
)
def test_what_no_site_can_have(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SplitRuleError, match=why):
        dataclasses.replace(rule(), **changes)


def test_the_first_version_counts_from_the_beginning() -> None:
    decision = put([], draft(), now=Instant(500))
    assert isinstance(decision, NewRule)
    assert decision.rule == rule()
    assert "agency/A: none -> 60 %" in decision.differences


def test_the_same_again_changes_nothing_in_any_order() -> None:
    assert put([rule()], draft(parts=tuple(reversed(PARTS))), now=Instant(500)) == Unchanged()
    assert put([rule(), rule(2, since=400)], draft(2), now=Instant(500)) == Unchanged()


def test_a_later_version_counts_from_now_or_from_its_date() -> None:
    other = (Part(path="agency/A", share_ppm=1_000_000),)
    decision = put([rule()], draft(2, parts=other), now=Instant(500))
    assert isinstance(decision, NewRule)
    assert decision.rule.effective_from_us == 500
    assert decision.differences == ("agency/A: 60 % -> 100 %", "agency/B: 30 % -> none", "fee/op: 10 % -> none")
    dated = put([rule()], draft(2, parts=other, since=900), now=Instant(500))
    assert isinstance(dated, NewRule)
    assert dated.rule.effective_from_us == 900


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (draft(1, parts=(Part(path="agency/A", share_ppm=1_000_000),)), "versions never change: put version 4"),
        (draft(1, since=7), "versions never change: put version 4"),
        (draft(2), "at version 3 already: put version 4"),
        (draft(4, since=99), "before version 3"),
    ],
)
def test_what_stands_is_not_changed(wanted: RuleDraft, why: str) -> None:
    decision = put([rule(), rule(3, since=100)], wanted, now=Instant(500))
    assert isinstance(decision, RuleRefused)
    assert why in decision.reason


def test_the_rule_in_force_is_the_latest_that_has_begun() -> None:
    versions = [rule(1), rule(2, since=100), rule(3, since=100), rule(4, since=200)]
    assert rule_in_force(versions, at=Instant(99)) == versions[0]
    assert rule_in_force(versions, at=Instant(100)) == versions[2]
    assert rule_in_force(versions, at=Instant(200)) == versions[3]
    assert rule_in_force([rule(1, since=5)], at=Instant(4)) is None


def test_a_site_with_money_and_no_rule_is_named() -> None:
    missing = choose([rule(), rule(site=S2, since=900)], {S1: 5, S2: 1_200_000}, at=Instant(500))
    assert isinstance(missing, RulesMissing)
    assert missing.sites == {S2: 1_200_000}
    assert "S2 (1.20)" in missing.reason
    assert "split-rules put" in missing.reason


def test_sites_without_money_need_no_rule_but_bring_theirs() -> None:
    s2 = rule(site=S2)
    assert choose([s2, rule()], {S1: 5, SiteId("S3"): 0}, at=Instant(500)) == (rule(), s2)
