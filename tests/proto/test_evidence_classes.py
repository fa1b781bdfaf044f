"""The order of evidence classes, and what a site with nothing set takes."""

import pytest

from farthing.evidence.classes import NAMES, class_of, is_below, least_of, name_of
from farthing.v1 import batch_pb2


def test_each_number_of_the_wire_has_a_name_and_the_numbers_are_the_order() -> None:
    assert set(NAMES) == set(batch_pb2.EvidenceClass.values()) - {batch_pb2.EVIDENCE_CLASS_UNSPECIFIED}
    assert [name_of(number) for number in sorted(NAMES)] == ["device-signed", "station-attested", "gateway-attested"]
    assert name_of(0) == name_of(9) == "unknown"


@pytest.mark.parametrize("least", sorted(NAMES))
def test_a_site_takes_its_least_class_and_stronger_ones_and_nothing_unknown(least: int) -> None:
    assert [each for each in sorted(NAMES) if is_below(each, least)] == [each for each in sorted(NAMES) if each > least]
    assert all(is_below(unknown, least) for unknown in (0, -1, 4))


def test_nothing_set_is_device_signed_and_nonsense_is_none() -> None:
    assert least_of(0) == batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED
    assert [least_of(each) for each in sorted(NAMES)] == sorted(NAMES)
    with pytest.raises(ValueError, match="no evidence class 4"):
        least_of(4)


def test_what_a_batch_adds_for_an_authorization_is_as_strong_as_its_weakest_line() -> None:
    lines = [batch_pb2.Line(evidence_class=each) for each in (1, 2, 0, 3)]  # type: ignore[arg-type]  # numbers of the enum

    def of(*named: int) -> int:
        shares = [batch_pb2.Share(line=line) for line in named]
        claims = [batch_pb2.Claim(authorization_id=b"a", shares=shares), batch_pb2.Claim(authorization_id=b"b")]
        return class_of(batch_pb2.Batch(lines=lines, claims=claims), b"a")

    assert [of(), of(0), of(0, 1), of(0, 2), of(3, 0), of(7)] == [1, 1, 2, 3, 3, 1]
