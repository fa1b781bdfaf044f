"""``edge.toml`` as one frozen object: an unknown key or a missing file is no start, and the message says what to do."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

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
from farthing.daemon import RUN_FILE
from farthing.ids import GatewayId, parse_id

#: The user name of a site's gateway at its broker; no device may be called so.
GATEWAY_USER = "gateway"


#: sun_path of unix(7), without its closing zero.
MAX_SOCKET_PATH = 107


def _gateway_id(value: str) -> str:
    return parse_id(value)


class UplinkSection(Section):
    """The way to the cloud. Times are real seconds."""

    address: Address
    #: Reconnects back off up to this: an outage of hours is over within it, and a cloud that restarts meets no storm.
    max_backoff_s: Annotated[float, Field(ge=0.1, le=600)] = 5.0
    #: First wait after a break.
    min_backoff_s: Annotated[float, Field(ge=0.01, le=60)] = 0.2
    #: A line that swallows is found out after this silence plus ``keepalive_timeout_s``. A cloud hangs up on who pings more often
    #: than it allows (gRPC's "too many pings"): ours allows every 5 s.
    keepalive_s: Annotated[float, Field(ge=0.5, le=3_600)] = 6.0
    keepalive_timeout_s: Annotated[float, Field(ge=0.5, le=600)] = 2.0
    #: Longest wait for the answer to one call, and for the receipt of a batch in flight.
    call_timeout_s: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    receipt_timeout_s: Annotated[float, Field(ge=1, le=3_600)] = 30.0
    #: Batches sent and not yet receipted: hides the round trip of a slow line, bounds what a break sends again.
    batches_in_flight: Annotated[int, Field(ge=1, le=1_024)] = 16
    #: Quota requests asked at once: one for each account that runs low in the same moment.
    quota_requests_in_flight: Annotated[int, Field(ge=1, le=256)] = 16
    #: What may go up a second, of what the gateway says (TLS and HTTP/2 add about 64 bytes a message, which are counted); by default as much
    #: as the line takes. Batches come before detail, and what has to be said at once is not held back. 1 kB/s is a few hundred uses a second.
    bytes_per_s: Annotated[int, Field(ge=1_000, le=10**10)] | None = None
    #: Detail is uploaded when nothing else has gone up for this long.
    evidence_quiet_s: Annotated[float, Field(ge=0, le=3_600)] = 0.2
    #: Batches whose detail is sent and not yet answered, as long as it is little: hides the round trip.
    details_in_flight: Annotated[int, Field(ge=1, le=64)] = 8

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.min_backoff_s > self.max_backoff_s:
            raise ValueError("min_backoff_s is at most max_backoff_s")
        return self


class MqttSection(Section):
    """The site's broker. Times are real seconds."""

    #: Where devices find it; without ``socket`` the gateway too, as TLS client.
    address: Address
    #: Unix socket of a broker on this host, in a folder that only its user may enter: no TLS and no key on that way.
    #: ``farthing-edge broker`` makes Mosquitto listen there.
    socket: FilePath | None = None
    #: The folder of ``farthing-edge broker`` on this host: the gateway renews the broker's key in it and tells the broker.
    broker_directory: FilePath | None = None
    max_backoff_s: Annotated[float, Field(ge=0.1, le=600)] = 5.0
    min_backoff_s: Annotated[float, Field(ge=0.01, le=60)] = 0.2
    #: A broker that is silent for one and a half times this is gone (MQTT 3.1.1, section 3.1.2.10).
    keepalive_s: Annotated[int, Field(ge=1, le=3_600)] = 15
    #: Longest wait for the broker's own answers.
    timeout_s: Annotated[float, Field(ge=0.5, le=600)] = 10.0

    @property
    def place(self) -> str:
        """Where the gateway speaks to it, for people."""
        return self.address if self.socket is None else str(self.socket)


class CoapSection(Section):
    """CoAP with OSCORE from EDHOC. Times are real seconds."""

    listen: Address
    #: Security contexts kept; the longest idle one makes room and its device handshakes again. 4 kB each.
    max_contexts: Annotated[int, Field(ge=1, le=100_000)] = 2_048
    #: Handshakes between message_1 and message_3: each cost the token one operation.
    max_half_open: Annotated[int, Field(ge=1, le=4_096)] = 64
    #: A stock client sends message_3 with its next request; two retransmissions of it (RFC 7252, section 4.8) fit.
    half_open_s: Annotated[float, Field(ge=1, le=60)] = 10.0
    #: Above this many half-open handshakes an address first has to return an Echo (RFC 9175).
    echo_above: Annotated[int, Field(ge=0, le=4_096)] = 32


class HttpSection(Section):
    """/healthz, /metrics and /status: for this host's operators, without secrets."""

    listen: Address = "127.0.0.1:0"


class TokenSection(Section):
    """The gateway's token, beside its keys."""

    #: The token also remembers the highest sealed batch. Only for one that is not restored with the journal's disk: SoftHSM is.
    witness: bool = False


class LimitsSection(Section):
    """What one gateway takes on at once; above it the answer is "later"."""

    #: Messages per second of one proven peer of a channel, readable or not, and how many may come at once: what a device's budget allows
    #: twice over, so that a device within its budget never meets this.
    peer_rate_per_s: Annotated[int, Field(ge=1, le=100_000)] = 100
    peer_burst: Annotated[int, Field(ge=1, le=100_000)] = 200
    #: Statements per second that verified as one device's, and how many may come at once: a charger's reading a second ten times over,
    #: and the backlog of a device that was away.
    device_rate_per_s: Annotated[int, Field(ge=1, le=100_000)] = 50
    device_burst: Annotated[int, Field(ge=1, le=100_000)] = 100
    #: Peers whose rate is remembered; the one unheard of longest is forgotten.
    peers_remembered: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    #: Statements between arrival and answer: two seconds of a site at 500 statements a second.
    statements_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1_024
    #: Messages that no one could verify, kept for a person to look at.
    rubbish_samples: Annotated[int, Field(ge=0, le=10_000)] = 64
    #: What a device is told to wait when it is over its rate or the gateway is full.
    retry_after_ms: Annotated[int, Field(ge=1, le=600_000)] = 500
    #: A chain of directives whose head is older than this decides on the floor only, business time: a week without the cloud.
    directive_max_age_s: Annotated[int, Field(ge=60)] = 7 * 24 * 3600
    #: How long after the cloud had nothing for an account it is asked again, business time.
    quota_retry_s: Annotated[int, Field(ge=1)] = 60
    #: A quota of an account that nobody spent from for this long is given back, business time: a day covers who comes daily.
    quota_idle_s: Annotated[int, Field(ge=60)] = 24 * 3600
    #: How long after its intent a yes lets a use begin, real time; later, its device asks again. 0: as long as it likes, for devices (and a cloud) of
    #: before, which read no grant that says so.
    grant_lapse_s: Annotated[int, Field(ge=0, le=86_400)] = 900
    #: Commands waiting for the engine's writer.
    engine_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    #: Commands decided in one group and made durable by one fsync.
    group: Annotated[int, Field(ge=1, le=10_000)] = 64
    #: Intents that wait for a quota, and how long, real time.
    parked_intents: Annotated[int, Field(ge=0, le=100_000)] = 1_024
    quota_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 1_500


class EdgeClockSection(ClockSection):
    """The clock, and what a gateway does while nobody vouches for it."""

    #: New uses that are priced by date, weekday or time of day while the clock is not trusted: refused for now, or priced all the same.
    fallback: Literal["refuse", "own_clock"] = "refuse"


class JournalSection(Section):
    """How much of the journal is kept, and how long a start takes."""

    #: A snapshot at every so many entries: a start replays at most some more than that, in about half a second. 0: none, and a start
    #: replays everything.
    snapshot_entries: Annotated[int, Field(ge=0, le=10_000_000)] = 20_000
    #: Entries older than this, receipted and proven, are taken away, business time; by default nothing is.
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    #: How far back the ledger may be restored to: nothing younger is taken away, business time.
    backup_horizon_days: Annotated[int, Field(ge=1, le=36_500)] = 35

    @model_validator(mode="after")
    def _reaches_back(self) -> Self:
        if self.retention_days is not None and self.retention_days < self.backup_horizon_days:
            raise ValueError("retention_days is at least backup_horizon_days: a restored ledger asks for them")
        return self


class EdgeConfig(Section):
    """Everything that ``farthing-edge`` reads."""

    gateway_id: Annotated[str, AfterValidator(_gateway_id)]
    #: Journal and run.json.
    state_dir: FilePath
    #: Folder of this gateway's party that ``farthing-hsm-sim`` made.
    party: FilePath
    #: The root that all certificates lead to, PEM.
    ca_file: FilePath
    #: SubjectPublicKeyInfo (DER) of the key that signs the cloud's directives.
    directive_key_file: FilePath
    #: Transport keys; default: a tmpfs.
    transport_dir: FilePath | None = None
    uplink: UplinkSection
    mqtt: MqttSection | None = None
    coap: CoapSection | None = None
    http: HttpSection = HttpSection()
    token: TokenSection = TokenSection()
    clock: EdgeClockSection = EdgeClockSection()
    limits: LimitsSection = LimitsSection()
    journal: JournalSection = JournalSection()
    log: LogSection = LogSection()

    @property
    def gateway(self) -> GatewayId:
        """Who this gateway is."""
        return GatewayId(self.gateway_id)

    @property
    def run_file(self) -> Path:
        """Where a running daemon says its process id and addresses."""
        return self.state_dir / RUN_FILE

    @property
    def journal_file(self) -> Path:
        """The journal."""
        return self.state_dir / "journal.sqlite"

    @model_validator(mode="after")
    def _hears_somebody(self) -> Self:
        if self.mqtt is None and self.coap is None:
            raise ValueError("no way in for devices: add a section [mqtt] or [coap]")
        return self


def load_config(path: Path) -> EdgeConfig:
    """Read ``path``; relative paths in it are relative to its folder. Raise ``ConfigError``."""
    document = read_toml(path, absent="no such file: write it as docs/runbook.md shows")
    try:
        config = EdgeConfig.model_validate(document)
    except ValidationError as err:
        raise ConfigError(explain(path, err)) from err
    return config.model_copy(
        update={
            "state_dir": resolved(path, config.state_dir),
            "party": existing(
                path, "party", config.party, "this gateway's folder, made with `farthing-hsm-sim ceremony`"
            ),
            "ca_file": existing(path, "ca_file", config.ca_file, "the certificate of the ceremony's CA, ca.pem"),
            "directive_key_file": existing(
                path,
                "directive_key_file",
                config.directive_key_file,
                "the public key of the cloud's directives: <cloud's party>/public/directive.der",
            ),
            "mqtt": _with_paths(path, config.mqtt),
            "transport_dir": None if config.transport_dir is None else resolved(path, config.transport_dir),
        }
    )


def _with_paths(path: Path, section: MqttSection | None) -> MqttSection | None:
    if section is None:
        return None
    directory = section.broker_directory
    section = section.model_copy(update={"broker_directory": None if directory is None else resolved(path, directory)})
    if section.socket is None:
        return section
    socket = resolved(path, section.socket)
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"{path}: mqtt.socket: {socket} is longer than {MAX_SOCKET_PATH} bytes (unix(7)): choose a shorter path"
        )
    return section.model_copy(update={"socket": socket})
