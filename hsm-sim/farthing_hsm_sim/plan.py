"""Who takes part in a ceremony, and what each of them gets."""

import hashlib
import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from farthing.hsm import HsmError
from farthing.ids import IdError, parse_id
from farthing_hsm_sim.softhsm import LABEL_SIZE, KeyPlan

CA = "ca"
CLOUD = "cloud"
#: Folders of the ceremony's own; nobody may be called so.
RESERVED = frozenset({CA, CLOUD, "devices", "tokens"})

KEYS: dict[str, tuple[KeyPlan, ...]] = {
    "ca": (KeyPlan(label="ca"),),
    "cloud": (
        KeyPlan(label="receipt"),
        KeyPlan(label="directive"),
        KeyPlan(label="issuing"),
        KeyPlan(label="log", edwards=True),
    ),
    "gateway": (
        KeyPlan(label="tls"),
        KeyPlan(label="batch"),
        KeyPlan(label="grant"),
        KeyPlan(label="site-ca"),
        KeyPlan(label="edhoc", derives=True),
        KeyPlan(label="unwrap", derives=True),
    ),
    "device": (KeyPlan(label="identity"), KeyPlan(label="statement"), KeyPlan(label="static-dh", derives=True)),
    "person": (KeyPlan(label="tls"),),
}
#: Whose static Diffie-Hellman key EDHOC names by a key identifier.
EDHOC_LABEL = {"gateway": "edhoc", "device": "static-dh"}


class Plan(BaseModel):
    """Who takes part; ``ca`` and ``cloud`` always do.

    ``shared_tokens`` puts all tokens into one SoftHSM directory, so that one process (a test) can open gateway and cloud together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gateways: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    shared_tokens: bool = False

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = (*self.gateways, *self.devices, *self.people)
        for name in names:
            try:
                parse_id(name)
            except IdError as err:
                raise ValueError(str(err)) from err
            if name in RESERVED:
                raise ValueError(f"nobody may be called {name!r}: a folder of the ceremony has that name")
        if len(set(names)) != len(names):
            raise ValueError("two parties have the same name")
        return self


def read_plan(file: Path) -> Plan:
    """The plan in a TOML file; ``HsmError`` says what is wrong with it."""
    try:
        return Plan.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as err:
        raise HsmError(f"cannot read the plan {file}: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as err:
        raise HsmError(f"{file} is no plan: {err}") from err


def token_label(name: str) -> str:
    """The label of ``name``'s token: the name, or its beginning and a hash where 32 bytes do not hold it."""
    if len(name) <= LABEL_SIZE:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LABEL_SIZE - len(digest) - 1]}-{digest}"
