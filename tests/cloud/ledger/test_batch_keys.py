"""What each of a gateway's keys is good for: any history of changes and revocations, and each rule with its own name."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.device.cose import key_id
from farthing_cloud.ledger.core.keys import BatchKey, Standing, judge, named, present_of, settle

A, B, C = b"key a", b"key b", b"key c"


def history(*steps: tuple[int, bytes, tuple[bytes, ...]]) -> Sequence[BatchKey]:
    keys: Sequence[BatchKey] = ()
    for at, key, revoked in steps:
        keys = tuple(settle(keys, key, revoked, now=Instant(at)).values())
    return keys


@pytest.mark.parametrize(
    ("keys", "signed_by", "sealed_at", "before", "standing"),
    [
        (history((10, A, ()), (20, B, ())), A, 15, b"", Standing.GOOD),
        (history((10, A, ()), (20, B, ())), A, 20, key_id(A), Standing.GOOD),
        # Whatever was sealed before the ledger knew it.
        (history((10, A, ()), (20, B, ())), A, 1, key_id(A), Standing.GOOD),
        (history((10, A, ()), (20, B, ())), A, 21, key_id(A), Standing.REPLACED),
        (history((10, A, ()), (20, B, ())), A, 15, key_id(B), Standing.WENT_BACK),
        (history((10, A, ()), (20, B, ())), A, 15, None, Standing.UNPLACED),
        (history((10, A, ()), (20, B, ())), C, 15, key_id(A), Standing.UNKNOWN),
        (history((10, A, ()), (20, B, (A,))), A, 15, key_id(A), Standing.REVOKED),
        (history((10, A, ()), (20, B, ()), (30, B, (A,))), A, 15, None, Standing.REVOKED),
        # A key that came back: what it signed in between, and after.
        (history((10, A, ()), (20, B, ()), (30, A, ()), (40, C, ())), B, 25, key_id(A), Standing.GOOD),
        (history((10, A, ()), (20, B, ()), (30, A, ()), (40, C, ())), A, 35, key_id(B), Standing.GOOD),
        (history((10, A, ()), (20, B, ()), (30, A, ()), (40, C, ())), B, 35, key_id(A), Standing.REPLACED),
    ],
)
def test_a_key_is_worth_what_it_was_when_the_batch_was_sealed(
    keys: Sequence[BatchKey], signed_by: bytes, sealed_at: int, before: bytes | None, standing: Standing
) -> None:
    assert judge(keys, key_id(signed_by), sealed_at=Instant(sealed_at), before=before) is standing


def test_a_gateway_whose_present_key_is_revoked_has_none_until_it_is_given_another() -> None:
    keys = history((10, A, ()), (20, A, (A,)))
    assert present_of(keys) is None
    assert history((10, A, ()), (20, A, (A,)), (30, A, ())) == keys  # said again, it stays revoked
    given_another = history((10, A, ()), (20, A, (A,)), (30, B, (A,)))
    present = present_of(given_another)
    assert present is not None
    assert present.key == B


def test_a_key_that_nobody_has_heard_of_can_be_revoked() -> None:
    keys = history((10, A, (B,)), (20, B, ()))
    assert present_of(keys) is None
    assert judge(keys, key_id(B), sealed_at=Instant(15), before=b"") is Standing.REVOKED


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.sampled_from([A, B, C, b""]), st.frozensets(st.sampled_from([A, B, C]))),
        max_size=8,
    )
)
def test_what_has_ended_stays_ended_and_at_most_one_key_is_present(
    steps: list[tuple[int, bytes, frozenset[bytes]]],
) -> None:
    keys: dict[int, BatchKey] = {}
    lost: set[bytes] = set()
    for at, key, revoked in steps:
        before, keys = keys, settle(tuple(keys.values()), key, revoked, now=Instant(at))
        lost |= revoked
        for number, old in before.items():
            new = keys[number]
            assert (new.key, new.since) == (old.key, old.since)
            assert old.until in (None, new.until)
            assert old.revoked_at in (None, new.revoked_at)
        assert all(each.until is None or each.until >= each.since for each in keys.values())
        present = [each.key for each in keys.values() if each.until is None]
        assert present == ([key] if key and key not in lost else [])
        for each in lost:
            known = named(tuple(keys.values()), key_id(each))
            assert known
            assert judge(known, key_id(each), sealed_at=Instant(0), before=b"") is Standing.REVOKED
