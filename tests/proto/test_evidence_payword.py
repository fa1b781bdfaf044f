"""PayWord chains: what proves how much, whatever arrives in whichever order."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.device.messages import MAX_CHAIN_LENGTH
from farthing.evidence import payword

examples = settings(max_examples=60, deadline=None)
secrets = st.binary(min_size=32, max_size=32)


def test_a_word_hashes_to_the_one_before_it() -> None:
    chain = payword.words(bytes(32), 5)
    assert chain[5] == bytes(32)
    assert [hashlib.sha256(later).digest() for later in chain[1:]] == chain[:-1]
    assert [payword.word(bytes(32), 5, index) for index in range(6)] == chain


@pytest.mark.parametrize(
    ("size", "length", "index"), [(31, 5, 1), (32, 5, 6), (32, 5, -1), (32, MAX_CHAIN_LENGTH + 1, 1)]
)
def test_what_is_no_word_is_refused(size: int, length: int, index: int) -> None:
    with pytest.raises(ValueError, match="no such word"):
        payword.word(bytes(size), length, index)


@examples
@given(secrets, st.integers(1, 60), st.data())
def test_the_highest_word_shown_is_what_is_proven(secret: bytes, length: int, data: st.DataObject) -> None:
    """Lost, repeated, late and reordered ticks: what counts is the highest that arrived, never more."""
    chain = payword.words(secret, length)
    shown = data.draw(st.lists(st.integers(1, length), max_size=40))
    index, word = payword.highest(0, chain[0], [(at, chain[at]) for at in shown])
    assert index == max(shown, default=0)
    assert word == chain[index]


@examples
@given(secrets, st.integers(2, 60), st.randoms(use_true_random=False))
def test_false_ticks_prove_nothing_and_hide_nothing(secret: bytes, length: int, rng: random.Random) -> None:
    chain = payword.words(secret, length)
    honest = [(at, chain[at]) for at in range(1, length + 1) if rng.random() < 0.5]
    # A word at another index, a word of another chain, rubbish, an index before the first.
    false = [(rng.randint(-3, length + 9), rng.randbytes(32)) for _ in range(9)]
    false += [(at + rng.randint(1, 5), word) for at, word in honest]
    shown = honest + false
    rng.shuffle(shown)
    index, word = payword.highest(0, chain[0], shown)
    assert index == max((at for at, _ in honest), default=0)
    assert word == chain[index]


def test_nobody_goes_on_from_a_word_that_was_shown() -> None:
    chain = payword.words(bytes(32), 9)
    assert not payword.proves(chain[4], 1, chain[4])
    assert not payword.proves(chain[4], 1, chain[3])
    assert not payword.proves(chain[4], 0, chain[4])
    assert payword.proves(chain[4], 3, chain[7])
