"""Check a batch's detail leaf by leaf, from public keys, tariffs and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farthing.device.cose import VerifyingKey
from farthing.device.messages import Statement
from farthing.evidence.leaf import Leaf
from farthing.tariff import Tariff
from farthing.v1 import batch_pb2


class EvidenceError(ValueError):
    """A rule of evidence that a batch's detail breaks; ``leaf`` is its index, None where the fault is the batch's."""

    def __init__(self, rule: str, leaf: int | None = None) -> None:
        super().__init__(rule if leaf is None else f"leaf {leaf}: {rule}")
        self.rule = rule
        self.leaf = leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFacts:
    """What the registry knows of a register: its unit ("Wh", "s", "passage") and the count at which it returns to 0."""

    unit: str
    modulus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLeaf:
    """A leaf whose every rule holds, with its statements read: ``first`` began the authorization, ``last`` ends the record."""

    index: int
    leaf: Leaf
    first: Statement
    last: Statement


def verify(
    batch: batch_pb2.Batch,
    leaves: Sequence[bytes],
    *,
    device_key: Callable[[str, bytes], VerifyingKey | None],
    tariff: Callable[[str, int], Tariff | None],
    register: Callable[[str, str, int], RegisterFacts | None],
) -> tuple[VerifiedLeaf, ...]:
    """Check every rule of evidence; return the leaves in order, or raise ``EvidenceError`` naming leaf and rule.

    ``device_key`` is asked with (device id, key id), ``tariff`` with (tariff id, version), ``register`` with (device id, register
    id, register epoch).
    """
    raise EvidenceError("not written yet")
