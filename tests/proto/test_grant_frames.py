"""A frame says what the messages say: grants byte for byte, refusals alike."""

from dataclasses import replace
from typing import Any

import pytest
from device_strategies import grants
from hypothesis import given, settings

from farthing.device.frames import GrantFrame
from farthing.device.messages import MAX_COUNT, MAX_HELD_PARTS, Grant, encode
from farthing.device.reject import MessageError
from farthing.money import MAX_AMOUNT_MICROS


def said(grant: Grant) -> dict[str, Any]:
    """What a frame is told of ``grant``."""
    return {
        "incarnation": grant.witness.incarnation,
        "start_id": grant.witness.start_id,
        "position": grant.witness.position,
        "at": grant.at,
        "limit": grant.limit,
        "held": [(part.quota_id, part.amount_micros) for part in grant.held],
        "net_micros": grant.net_micros,
        "tax_micros": grant.tax_micros,
    }


@given(grants, grants)
def test_a_grant_from_the_frame_of_another_of_its_authorization_is_the_grant(grant: Grant, other: Grant) -> None:
    grant = replace(grant, readings_due=())
    changing = ("witness", "at", "limit", "held", "net_micros", "tax_micros")
    other = replace(grant, **{name: getattr(other, name) for name in changing})
    assert GrantFrame(other).payload(**said(grant)) == encode(grant)
    assert GrantFrame(grant).payload(**said(other)) == encode(other)


@pytest.mark.parametrize(
    "change",
    [
        {"incarnation": -1},
        {"start_id": bytes(15)},
        {"start_id": "0123456789abcdef"},
        {"position": MAX_COUNT + 1},
        {"at": True},
        {"limit": 1.0},
        {"held": [("q", 1)] * (MAX_HELD_PARTS + 1)},
        {"held": [("q", MAX_AMOUNT_MICROS + 1)]},
        {"held": [("*floor", 1)]},
        {"net_micros": MAX_AMOUNT_MICROS + 1},
        {"tax_micros": -1},
    ],
    ids=lambda change: "-".join(change),
)
@settings(max_examples=5)
@given(grant=grants)
def test_what_no_grant_may_say_a_frame_does_not_say(change: dict[str, Any], grant: Grant) -> None:
    frame = GrantFrame(replace(grant, readings_due=()))
    with pytest.raises(MessageError):
        frame.payload(**said(grant) | change)
