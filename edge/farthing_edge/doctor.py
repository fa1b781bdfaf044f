"""What a gateway's set-up protects against: findings for whoever sets it up."""

from typing import Literal, NamedTuple

from farthing.hsm import Party
from farthing_edge.config import EdgeConfig


class Finding(NamedTuple):
    """``wrong``: something is relied on that does not hold. ``note``: something that is not protected."""

    verdict: Literal["ok", "note", "wrong"]
    what: str


def examine(config: EdgeConfig, party: Party) -> list[Finding]:
    """Whether the token is a witness against a journal that is taken back in time."""
    soft = "softhsm" in party.module_path.name.lower()
    if config.token.witness and soft:
        return [
            Finding(
                "wrong",
                f"[token] witness: {party.module_path} is SoftHSM. It keeps its objects in files, unsynced, on a disk that is restored "
                "with the journal: it does not count as a witness. Set witness = false, or use a hardware token",
            )
        ]
    if config.token.witness:
        return [
            Finding(
                "ok", "the token remembers the highest sealed batch: a journal that goes back is noticed at the start"
            )
        ]
    return [
        Finding(
            "note",
            "the token is no witness: a journal that goes back is noticed when a device or the cloud returns what it has seen. "
            "Until then the exposure is the size of the open quotas",
        )
    ]
