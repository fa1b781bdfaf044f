"""How strong the evidence of a billed amount is (P6), and what each class shows and does not.

Rule 1: the numbers are the order: a smaller one is stronger. An unknown one is below all.
Rule 2: a site takes no less than its least class; where nothing is set, device-signed.
"""

from typing import Final

from farthing.v1 import batch_pb2

DEVICE_SIGNED: Final[int] = batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED
STATION_ATTESTED: Final[int] = batch_pb2.EVIDENCE_CLASS_STATION_ATTESTED
GATEWAY_ATTESTED: Final[int] = batch_pb2.EVIDENCE_CLASS_GATEWAY_ATTESTED

NAMES: Final = {
    DEVICE_SIGNED: "device-signed",
    STATION_ATTESTED: "station-attested",
    GATEWAY_ATTESTED: "gateway-attested",
}


def name_of(evidence_class: int) -> str:
    """As people read it; "unknown" for a number that is none."""
    return NAMES.get(evidence_class, "unknown")


def least_of(evidence_class: int) -> int:
    """A site's least class, from what was set: nothing set is device-signed. Raise ``ValueError`` for a number that is none."""
    if evidence_class == batch_pb2.EVIDENCE_CLASS_UNSPECIFIED:
        return DEVICE_SIGNED
    if evidence_class not in NAMES:
        raise ValueError(f"no evidence class {evidence_class}")
    return evidence_class


def is_below(evidence_class: int, least: int) -> bool:
    """Whether evidence of this class is weaker than the least that is taken."""
    return evidence_class not in NAMES or evidence_class > least


def class_of(batch: batch_pb2.Batch, authorization_id: bytes) -> int:
    """The weakest class among the lines to which the batch adds for an authorization; device-signed where it adds nothing.

    Shares of lines that are not there are left to who checks the batch.
    """
    found = [
        int(batch.lines[share.line].evidence_class)
        for claim in batch.claims
        if claim.authorization_id == authorization_id
        for share in claim.shares
        if share.line < len(batch.lines)
    ]
    return max((each if each in NAMES else GATEWAY_ATTESTED for each in found), default=DEVICE_SIGNED)


def unsigned(evidence_class: int) -> tuple[str, ...]:
    """What evidence of this class leaves open that device-signed evidence would show, in sentences."""
    if evidence_class == DEVICE_SIGNED:
        return ()
    measured = (
        "that the station said so: its channel was authenticated and what came over it is not signed, so both are the gateway's word"
        if evidence_class == STATION_ATTESTED
        else "that anything but the gateway measured it: count and time are its word alone"
    )
    return (
        f"that a device measured it: the evidence is {name_of(evidence_class)}, and no device signed it",
        measured,
        "that it costs what was billed: without statements there is nothing to compute it from",
    )
