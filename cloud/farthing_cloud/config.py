"""``cloud.toml`` as one frozen object: an unknown key or a missing secret is no start, and says what to do."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from farthing.configuration import (
    Address,
    ClockSection,
    ConfigError,
    FilePath,
    LogSection,
    Section,
    existing,
    explain,
    read_toml,
    resolved,
)
from farthing.money import MAX_AMOUNT_MICROS, PPM

#: All services there are, in the order in which they start.
ServiceName: TypeAlias = Literal["ledger", "vault", "registry", "settlement", "fraud", "publiclog", "documents"]
SERVICE_NAMES: tuple[ServiceName, ...] = (
    "ledger",
    "vault",
    "registry",
    "settlement",
    "fraud",
    "publiclog",
    "documents",
)


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
    data_dir: FilePath | None = None
    url: str | None = None
    password_file: FilePath | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.embedded == (self.url is not None):
            raise ValueError('say either embedded = true or url = "postgresql://…"')
        if self.embedded and self.password_file is not None:
            raise ValueError("the embedded server knows no password_file")
        if self.url is not None and self.data_dir is not None:
            raise ValueError("data_dir belongs to the embedded server")
        return self


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
    #: A gateway not heard for this long is silent: its open quotas count as maximum loss.
    silent_after_s: Annotated[int, Field(ge=1)] = 600
    #: The leaves of proven batches are kept this long, to answer a payer's doubt. Two years: longer than any card scheme lets a payment be disputed.
    keep_detail_s: Annotated[int, Field(ge=86_400)] = 730 * 86_400
    #: The largest payback that one person orders and has paid alone; above it another person approves it. Micros of each currency's major unit.
    payback_alone_micros: Annotated[int, Field(ge=0, le=MAX_AMOUNT_MICROS)] = 100_000_000
    #: Postings whose transfers share a partition, from the next one that is made: with ten gateways a million is about a month. Fewer than
    #: a thousand would be more tables than indexes gain.
    partition_postings: Annotated[int, Field(ge=1_000, le=10**12)] = 1_000_000
    #: Events stay in the outbox at least this long, also when every reader has passed them. Ninety days: no reader is restored from an older backup.
    keep_events_s: Annotated[int, Field(ge=86_400)] = 90 * 86_400
    #: Services that read the outbox: while one of them has never said how far it is, nothing is pruned. Leave out what this cloud does not run.
    event_readers: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], ...], Field(strict=False)
    ] = ("documents", "fraud", "publiclog")
    #: How often events that every reader has passed are looked for, real seconds: they are kept for days, so a minute more or less is nothing.
    prune_interval_s: Annotated[int, Field(ge=1)] = 60
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


class DocumentsSection(Section):
    """Payers' documents."""

    #: When a use was and by which code its payer finds it is kept this long, as long as the ledger keeps its detail.
    keep_sessions_s: Annotated[int, Field(ge=86_400)] = 730 * 86_400


class RegistrySection(Section):
    """Identities."""


class VaultSection(Section):
    """Tokens."""

    #: Tokens of one operator: each becomes a directive on each of its gateways.
    max_tokens_per_operator: Annotated[int, Field(ge=1)] = 100_000


class PublicLogSection(Section):
    """What is published for anybody to check."""

    #: The first part of the logs' names, such as "example.com/farthing"; empty: named after the signing key. Never changed: witnesses know a log by it.
    origin: Annotated[str, Field(pattern=r"^[A-Za-z0-9./_-]{0,200}$")] = ""
    #: The logs' static files, for any web server to show; default: ``<state_dir>/publiclog``. Not on the database's disk, where that can be.
    directory: FilePath | None = None
    #: Where the same files are shown over HTTP, without TLS, to a web server before them or to anybody; None: nowhere.
    listen: Address | None = None
    #: A checkpoint is published at most this often, real seconds.
    interval_s: Annotated[int, Field(ge=1)] = 10
    #: How many of a million posted batches are drawn for audit.
    audit_ppm: Annotated[int, Field(ge=0, le=PPM)] = 10_000
    #: The same for one operator or one gateway, by id; the gateway's counts before its operator's.
    audit_ppm_of: dict[str, Annotated[int, Field(ge=0, le=PPM)]] = Field(default_factory=dict)
    #: From draw to case, real seconds: the longest planned outage and a day.
    audit_due_s: Annotated[int, Field(ge=1)] = 96 * 3600
    #: After a failed audit, all batches of its gateway are drawn for so long; real seconds. 0: never.
    audit_watch_s: Annotated[int, Field(ge=0)] = 30 * 24 * 3600


class CloudConfig(Section):
    """Everything that ``farthing-cloud`` reads."""

    state_dir: FilePath
    #: Folder of the party "cloud" that ``farthing-hsm-sim`` made.
    party: FilePath
    #: The root that all certificates lead to, PEM.
    ca_file: FilePath
    #: Transport keys; default: a tmpfs.
    transport_dir: FilePath | None = None
    database: DatabaseSection
    door: DoorSection = DoorSection()
    back_office: BackOfficeSection = BackOfficeSection()
    http: HttpSection = HttpSection()
    clock: ClockSection = ClockSection()
    log: LogSection = LogSection()
    ledger: LedgerSection = LedgerSection()
    fraud: FraudSection = FraudSection()
    settlement: SettlementSection = SettlementSection()
    documents: DocumentsSection = DocumentsSection()
    registry: RegistrySection = RegistrySection()
    vault: VaultSection = VaultSection()
    publiclog: PublicLogSection = PublicLogSection()
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
            "state_dir": resolved(path, config.state_dir),
            "party": existing(path, "party", config.party, "a folder made by: farthing-hsm-sim"),
            "ca_file": existing(path, "ca_file", config.ca_file, "the certificate of the ceremony's CA (ca.pem)"),
            "transport_dir": None if config.transport_dir is None else resolved(path, config.transport_dir),
            "publiclog": config.publiclog.model_copy(
                update={"directory": resolved(path, config.publiclog.directory or config.state_dir / "publiclog")}
            ),
            "database": config.database.model_copy(
                update={
                    "data_dir": resolved(path, config.database.data_dir or config.state_dir / "postgresql")
                    if config.database.embedded
                    else None,
                    "password_file": None
                    if config.database.password_file is None
                    else existing(
                        path, "database.password_file", config.database.password_file, "a file with the password"
                    ),
                }
            ),
        }
    )
