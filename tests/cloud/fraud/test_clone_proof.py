"""What proves a clone, and what does not."""

from typing import Any

import pytest

from farthing.device.cose import VerifyingKey
from farthing.v1 import directive_pb2
from farthing_cloud.fraud.blocking import loosens
from farthing_cloud.fraud.clone import Observation, StatementRejected, examine, observe


@pytest.fixture
def element(elements: Any) -> Any:
    return elements.Element("x1")


def seen(element: Any, cose: bytes, device_id: str = "x1") -> Observation:
    key = VerifyingKey.from_spki(element.spki)
    return observe(cose, device_id, lambda kid: key if kid == key.key_id else None)


def test_one_counter_for_two_gateways_is_a_proof(element: Any) -> None:
    first = seen(element, element.sign(7, gateway="gw-1"))
    second = seen(element, element.sign(7, gateway="gw-2"))
    finding = examine(second, first)
    assert finding is not None
    assert (finding.first, finding.second) == (first, second)
    swapped = examine(first, second)
    assert swapped is not None
    assert swapped.proof_id == finding.proof_id


def test_one_counter_with_other_content_for_one_gateway_is_a_proof(element: Any) -> None:
    assert examine(seen(element, element.sign(7, value=42)), seen(element, element.sign(7, value=41))) is not None


def test_the_same_content_signed_again_is_a_retry(element: Any) -> None:
    first, second = element.sign(7), element.sign(7)
    assert first != second
    assert examine(seen(element, second), seen(element, first)) is None


def test_a_name_seen_for_the_first_time_proves_nothing(element: Any) -> None:
    assert examine(seen(element, element.sign(7)), None) is None


def test_other_counters_epochs_and_keys_have_other_names(element: Any, elements: Any) -> None:
    names = {
        seen(element, element.sign(7)).id,
        seen(element, element.sign(8)).id,
    }
    other_key = elements.Element("x1")
    names.add(seen(other_key, other_key.sign(7)).id)
    element.epoch = 2
    names.add(seen(element, element.sign(7)).id)
    assert len(names) == 4


def _last_bit_flipped(cose: bytes) -> bytes:
    return cose[:-1] + bytes([cose[-1] ^ 1])


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda _element, _other: b"\x84rubbish", "not a device's statement"),
        (lambda e, _: e.sign(7, device="x2"), "came as one of"),
        (lambda _element, other: other.sign(7), "names no key"),
        (lambda e, _: _last_bit_flipped(e.sign(7)), "signature is not of the key"),
        (lambda e, _: e.sign(7, kind="end"), "signature is not of the key"),
    ],
)
def test_what_cannot_be_verified_is_rejected(element: Any, elements: Any, forge: Any, why: str) -> None:
    cose = forge(element, elements.Element("x1"))
    with pytest.raises(StatementRejected, match=why):
        seen(element, cose)


def test_blocking_never_loosens() -> None:
    blocked = directive_pb2.DEVICE_STATUS_BLOCKED
    assert not loosens(directive_pb2.DEVICE_STATUS_ACTIVE, blocked)
    assert not loosens(directive_pb2.DEVICE_STATUS_SUSPENDED, blocked)
    assert not loosens(blocked, blocked)
    assert loosens(directive_pb2.DEVICE_STATUS_DECOMMISSIONED, blocked)
    assert loosens(99, blocked)
