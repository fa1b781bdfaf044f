"""``cloud.toml`` as one frozen object: an unknown key or a missing secret is no start, and says what to do."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from farthing.clock import MAX_RATE, BusinessClock, real_clock, simulated_clock
from farthing.money import PPM

#: All services there are, in the order in which they start.
SERVICE_NAMES = ("ledger", "vault", "registry", "settlement", "fraud")
ServiceName: TypeAlias = Literal["ledger", "vault", "registry", "settlement", "fraud"]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and says what to do."""


def _host_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError('write it as "host:port", for example "127.0.0.1:0" (0: any free port)')
    return value


Address: TypeAlias = Annotated[str, AfterValidator(_host_port)]


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ListenSection(Section):
    listen: Address = "127.0.0.1:0"
    #: DNS names and IP addresses under which clients reach it, beside localhost, 127.0.0.1 and the host of ``listen``.
    names: Annotated[tuple[str, ...], Field(strict=False)] = ()


class DoorSection(ListenSection):
    """The gateways' listener."""


class BackOfficeSection(ListenSection):
    """The listener for persons and services."""

    #: Where the services that do not run in this process are reached: name → "host:port".
    addresses: dict[ServiceName, Address] = Field(default_factory=dict)


class HttpSection(Section):
    """/healthz and /metrics."""

    listen: Address = "127.0.0.1:0"


class DatabaseSection(Section):
    """One PostgreSQL: embedded, or by URL with its password in a file."""

    embedded: bool = False
    #: Of the embedded server; default: ``<state_dir>/postgresql``.
    data_dir: Annotated[Path, Field(strict=False)] | None = None
    url: str | None = None
    password_file: Annotated[Path, Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.embedded == (self.url is not None):
            raise ValueError('say either embedded = true or url = "postgresql://…"')
        if self.embedded and self.password_file is not None:
            raise ValueError("the embedded server knows no password_file")
        if self.url is not None and self.data_dir is not None:
            raise ValueError("data_dir belongs to the embedded server")
        return self


class ClockSection(Section):
    """Business time: as it is, or a simulation that several processes share."""

    simulation: bool = False
    #: Business µs since 1970 at the real instant ``real_epoch_us``.
    epoch_us: int | None = None
    real_epoch_us: int | None = None
    #: Business seconds per real second.
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] = 1

    @model_validator(mode="after")
    def _only_a_simulation_is_fast(self) -> Self:
        if self.simulation:
            if self.epoch_us is None or self.real_epoch_us is None:
                raise ValueError("a simulation needs epoch_us and real_epoch_us")
        elif self.epoch_us is not None or self.real_epoch_us is not None or self.rate != 1:
            raise ValueError("epoch_us, real_epoch_us and rate need simulation = true")
        return self

    def clock(self) -> BusinessClock:
        """The clock that this section describes."""
        if not self.simulation:
            return real_clock()
        assert self.epoch_us is not None
        assert self.real_epoch_us is not None
        return simulated_clock(epoch_us=self.epoch_us, real_epoch_us=self.real_epoch_us, rate=self.rate)


class LedgerSection(Section):
    """Quotas (DESIGN, section 5). Times are business seconds."""

    #: The most of an account's available funds that one quota takes.
    quota_share_ppm: Annotated[int, Field(ge=1, le=PPM)] = 250_000
    #: From grant to ``spend_until``.
    quota_lifetime_s: Annotated[int, Field(ge=1)] = 6 * 3600
    #: The longest planned outage: ``report_until`` is ``spend_until`` plus this.
    outage_s: Annotated[int, Field(ge=1)] = 72 * 3600
    #: Open quotas of one account over all gateways.
    max_open_quotas: Annotated[int, Field(ge=1, le=1_000)] = 8
    #: A head of every gateway's chain is signed and sent at least this often, real seconds.
    directive_head_interval_s: Annotated[int, Field(ge=1)] = 5


class FraudSection(Section):
    """Deep checks over what the ledger publishes."""

    #: Statements remembered per device to find two with one counter.
    remembered_statements: Annotated[int, Field(ge=16)] = 100_000


class SettlementSection(Section):
    """Windows and payouts."""

    #: A payee's planned payout is whole cents; below this much it stays for the next window.
    minimum_payout_micros: Annotated[int, Field(ge=0)] = 0


class RegistrySection(Section):
    """Identities."""


class VaultSection(Section):
    """Tokens."""

    #: Tokens of one operator: each becomes a directive on each of its gateways.
    max_tokens_per_operator: Annotated[int, Field(ge=1)] = 100_000


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"


class CloudConfig(Section):
    """Everything that ``farthing-cloud`` reads."""

    state_dir: Annotated[Path, Field(strict=False)]
    #: Folder of the party "cloud" that ``farthing-hsm-sim`` made.
    party: Annotated[Path, Field(strict=False)]
    #: The root that all certificates lead to, PEM.
    ca_file: Annotated[Path, Field(strict=False)]
    #: Transport keys; default: a tmpfs.
    transport_dir: Annotated[Path, Field(strict=False)] | None = None
    database: DatabaseSection
    door: DoorSection = DoorSection()
    back_office: BackOfficeSection = BackOfficeSection()
    http: HttpSection = HttpSection()
    clock: ClockSection = ClockSection()
    log: LogSection = LogSection()
    ledger: LedgerSection = LedgerSection()
    fraud: FraudSection = FraudSection()
    settlement: SettlementSection = SettlementSection()
    registry: RegistrySection = RegistrySection()
    vault: VaultSection = VaultSection()
    #: Rows that replace those of ``farthing_cloud.callers.DEFAULT_CALLERS``: method → allowed SAN URI patterns.
    callers: dict[str, tuple[str, ...]] = Field(default_factory=dict, strict=False)


def load_config(path: Path) -> CloudConfig:
    """Read ``path``; relative paths in it are relative to its folder. Raise ``ConfigError``."""
    document = read_toml(path)
    try:
        config = CloudConfig.model_validate(document)
    except ValidationError as err:
        raise ConfigError(explain(path, err)) from err
    return config.model_copy(
        update={
            "state_dir": _resolved(path, config.state_dir),
            "party": _existing(path, "party", config.party, "a folder made by: farthing-hsm-sim"),
            "ca_file": _existing(path, "ca_file", config.ca_file, "the certificate of the ceremony's CA (ca.pem)"),
            "transport_dir": None if config.transport_dir is None else _resolved(path, config.transport_dir),
            "database": config.database.model_copy(
                update={
                    "data_dir": _resolved(path, config.database.data_dir or config.state_dir / "postgresql")
                    if config.database.embedded
                    else None,
                    "password_file": None
                    if config.database.password_file is None
                    else _existing(
                        path, "database.password_file", config.database.password_file, "a file with the password"
                    ),
                }
            ),
        }
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML document at ``path``; raise ``ConfigError`` where there is none."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: no such file") from err
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not TOML: {err}") from err


def explain(path: Path, err: ValidationError) -> str:
    """One line per fault, each naming its key. Values are not repeated: one may be a secret in the wrong place."""
    lines = []
    for fault in err.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key {key}: remove it or correct its name")
        elif fault["type"] == "missing":
            lines.append(f"{path}: {key} is missing: add it")
        else:
            lines.append(f"{path}: {key}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _resolved(config_file: Path, path: Path) -> Path:
    return (config_file.parent / path).absolute()


def _existing(config_file: Path, key: str, path: Path, what: str) -> Path:
    absolute = _resolved(config_file, path)
    if not absolute.exists():
        raise ConfigError(f"{config_file}: {key}: {absolute} does not exist; it names {what}")
    return absolute
