"""``devices.toml``: what a run of simulated devices is told. An unknown key stops the start.

Example (paths may be relative to the file)::

    out_dir = "out"                       # sessions.jsonl, status.json, summary.json; a file `finish` here ends the run
    state_dir = "state"                   # devices.sqlite: counters, registers, what is kept
    seed = 7

    [clock]                               # left out: business time is real time
    simulation = true
    epoch_us = 1772420400000000           # business instant at real_epoch_us
    real_epoch_us = 1795000000000000
    rate = 900

    [network]                             # between each device and its transport, both ways
    loss_ppm = 20000
    duplicate_ppm = 20000
    reorder_ppm = 20000

    [[gateways]]
    id = "gw-1"
    mqtt = "127.0.0.1:8883"               # broker of the site
    coap = "127.0.0.1:5683"
    ca_file = "parties/ca/certificates/ca.pem"
    grant_key_file = "parties/gw-1/public/grant.der"    # SubjectPublicKeyInfo, DER
    edhoc_key_file = "parties/gw-1/public/edhoc.der"
    edhoc_kid = "0b"                      # hex

    [[devices]]
    id = "charge-1"
    kind = "charger"                      # charger | parking | smart-meter | toll | vending
    party = "parties/devices/charge-1"
    gateways = ["gw-1"]
    transport = "mqtt"                    # mqtt | coap
    report_interval_s = 720
    tariffs = [{id = "charge", version = 1}]
    tokens = ["anna-card", "hex:00ff"]
    register = {id = "1", epoch = 1, unit = "Wh", modulus = 1000000000, rated_per_hour = 11000, starts_at = 52000}
    [devices.mqtt.gw-1]
    certificate_file = "run/charge-1.pem" # CN = device id
    key_file = "run/charge-1.key"

    [[devices]]
    id = "toll-1"
    kind = "toll"
    party = "parties/devices/toll-1"
    gateways = ["gw-1", "gw-2"]           # one is chosen for each passage, with `gateway_weights` if given
    transport = "coap"
    dh_key_file = "parties/devices/toll-1/static-dh.key"
    report_interval_s = 3600
    tariffs = [{id = "toll", version = 1}]
    tokens = ["lorry-tag-1"]
    register = {id = "1", epoch = 1, unit = "passage", modulus = 4294967296, rated_per_hour = 3600}
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from farthing.clock import BusinessClock
from farthing.configuration import ClockSection, ConfigError, FilePath, Section, explain, read_toml
from farthing.device.messages import MAX_COUNT, MAX_EPOCH, MAX_TOKEN_SIZE
from farthing.ids import parse_id
from farthing_firmware_sim.device.values import Profile

#: One process, one PKCS#11 thread, one event loop: some thousands would work, but a typing error should not start them.
MAX_DEVICES = 1_000
_PPM = 1_000_000


Id = Annotated[str, AfterValidator(parse_id)]
Ppm = Annotated[int, Field(ge=0, le=_PPM)]


def _token(text: str) -> str:
    size = len(token_bytes(text))
    if not 1 <= size <= MAX_TOKEN_SIZE:
        raise ValueError(f"a token is 1 to {MAX_TOKEN_SIZE} bytes")
    return text


def token_bytes(text: str) -> bytes:
    """``text`` as a token: UTF-8, or bytes after ``hex:``."""
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


@unique
class Kind(StrEnum):
    """What a device is; decides its profile and its traffic."""

    CHARGER = "charger"
    PARKING = "parking"
    SMART_METER = "smart-meter"
    TOLL = "toll"
    #: Water, air, a ride: counted out unit by unit, each proven by a tick.
    DISPENSER = "dispenser"
    VENDING = "vending"

    @property
    def profile(self) -> Profile:
        """How such a device is told yes."""
        return _PROFILES[self]

    @property
    def unit_per_tick(self) -> int:
        """Units that a tick stands for; 0: it does not tick."""
        return 1 if self is Kind.DISPENSER else 0


_PROFILES: Mapping[Kind, Profile] = {
    Kind.CHARGER: Profile.SESSION,
    Kind.PARKING: Profile.SESSION,
    Kind.SMART_METER: Profile.STANDING,
    Kind.TOLL: Profile.ONE_SHOT,
    Kind.DISPENSER: Profile.SESSION,
    Kind.VENDING: Profile.ONE_SHOT,
}


@unique
class Transport(StrEnum):
    """How a device speaks."""

    MQTT = "mqtt"
    COAP = "coap"


@unique
class Mode(StrEnum):
    """Where uses come from."""

    STATISTICS = "statistics"
    REPLAY = "replay"


@unique
class ReplayFormat(StrEnum):
    """What a replayed file is."""

    ACN_JSON = "acn-json"
    PERTH_CSV = "perth-csv"
    LONDON_CSV = "london-csv"
    VENDING_CSV = "vending-csv"


@unique
class Pace(StrEnum):
    """How time passes for devices that replay."""

    #: With the run's clock: the slice begins when the run does, at the clock's rate.
    CLOCK = "clock"
    #: As fast as gateways answer: each device's clock shows the file's time, and is set forward whenever it waits for nobody.
    ANSWERS = "answers"


class Network(Section):
    """Faults between a device and its transport, per message and direction, in parts per million."""

    loss_ppm: Ppm = 0
    duplicate_ppm: Ppm = 0
    reorder_ppm: Ppm = 0
    #: A message that is overtaken comes up to this much later, real time.
    reorder_ms: Annotated[int, Field(ge=1, le=10_000)] = 250


class Retry(Section):
    """Real time between repetitions of an unanswered statement."""

    #: Several times what a gateway takes to answer (a group commit is milliseconds), so that most are never repeated.
    first_ms: Annotated[int, Field(ge=10, le=60_000)] = 400
    #: Short enough that a gateway that came back is found soon.
    most_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 3_000
    #: How often a silent device asks whether the cloud has receipted what it keeps.
    receipt_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 2_000
    #: A gateway that has not answered for this long is out of reach: last words are handed to another, payers sent there.
    carry_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 10_000
    #: A one-shot intent without an answer is left for another payer after this long.
    leave_ms: Annotated[int, Field(ge=10, le=86_400_000)] = 60_000


class Traffic(Section):
    """What payers do."""

    mode: Mode = Field(default=Mode.STATISTICS, strict=False)
    #: Replay: the file, and its format (left out: told by its content).
    file: FilePath | None = None
    format: ReplayFormat | None = Field(default=None, strict=False)
    #: How much of it: a window of this length, chosen by the seed; 0: everything from `from_s` to `to_s` (seconds since 1970, if given).
    window_s: Annotated[int, Field(ge=0, le=366 * 86_400)] = 54_000
    from_s: Annotated[int, Field(ge=0)] | None = None
    to_s: Annotated[int, Field(ge=0)] | None = None
    pace: Pace = Field(default=Pace.CLOCK, strict=False)
    #: ASSUMPTION: a payer walks away after this long without an answer (real time).
    patience_ms: Annotated[int, Field(ge=100)] = 6_000
    #: Where a session's device knows several gateways: how long it asks one before it turns to the next (real time).
    elsewhere_ms: Annotated[int, Field(ge=100)] = 3_000
    #: `finish` gives up after this long and says what is missing (real time).
    finish_timeout_s: Annotated[int, Field(ge=1, le=3_600)] = 120

    @model_validator(mode="after")
    def _replay_has_a_file(self) -> Self:
        if (self.mode is Mode.REPLAY) != (self.file is not None):
            raise ValueError('mode = "replay" needs a file, and a file needs mode = "replay"')
        return self


class Gateway(Section):
    """A gateway as a device knows it: where it is and by which keys it is known."""

    id: Id
    #: host:port of the site's broker.
    mqtt: str | None = None
    #: host:port.
    coap: str | None = None
    #: What the broker's certificate must chain to.
    ca_file: FilePath | None = None
    #: SubjectPublicKeyInfo (DER) of the key that signs grants.
    grant_key_file: FilePath
    #: SubjectPublicKeyInfo (DER) of its static Diffie-Hellman key, and that key's id (hex).
    edhoc_key_file: FilePath | None = None
    edhoc_kid: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,16}$")] | None = None


class Register(Section):
    """The device's count."""

    id: Id
    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCH)]
    unit: Annotated[str, Field(min_length=1, max_length=16)]
    modulus: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    rated_per_hour: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    #: Where it stands when the device is new.
    starts_at: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0


class Tariff(Section):
    """A tariff version the device can show to a payer."""

    id: Id
    version: Annotated[int, Field(ge=0, le=MAX_EPOCH)]


class MqttKey(Section):
    """The transport key of a device's MQTT client."""

    certificate_file: FilePath
    key_file: FilePath


class Device(Section):
    """One device."""

    id: Id
    kind: Kind = Field(strict=False)
    #: The ceremony's folder; the token's key `statement` signs.
    party: FilePath
    device_epoch: Annotated[int, Field(ge=0, le=MAX_EPOCH)] = 1
    gateways: Annotated[tuple[Id, ...], Field(min_length=1, max_length=16, strict=False)]
    #: One per gateway; left out: each as likely.
    gateway_weights: Annotated[tuple[Annotated[int, Field(ge=0, le=_PPM)], ...], Field(strict=False)] = ()
    transport: Transport = Field(strict=False)
    #: `register` in the file.
    meter: Register = Field(alias="register")
    report_interval_s: Annotated[int, Field(ge=1, le=86_400 * 31)]
    stoppable: bool = True
    tariffs: Annotated[tuple[Tariff, ...], Field(min_length=1, strict=False)]
    #: What payers present here, one drawn for each use.
    tokens: Annotated[tuple[Annotated[str, AfterValidator(_token)], ...], Field(strict=False)] = ()
    #: MQTT: the client's transport key by gateway.
    mqtt: dict[str, MqttKey] = Field(default_factory=dict)
    #: CoAP: the raw static Diffie-Hellman key (COSE_Key in CBOR, PEM, or 32 bytes), mode 0600.
    dh_key_file: FilePath | None = None
    #: Mean business time between two uses; left out: the kind's.
    gap_s: Annotated[int, Field(ge=1)] | None = None
    #: At most this many uses in the run; left out: no limit.
    uses: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        profile = self.kind.profile
        # It reports to its first gateway; the others hear how far it came while that one is gone.
        if profile is Profile.STANDING and len(self.tariffs) != 1:
            raise ValueError("a standing device has one tariff")
        if profile is not Profile.STANDING and not self.tokens:
            raise ValueError("a device that serves payers needs tokens they present")
        if self.gateway_weights and (len(self.gateway_weights) != len(self.gateways) or not sum(self.gateway_weights)):
            raise ValueError("gateway_weights has one weight per gateway, not all 0")
        if self.meter.starts_at >= self.meter.modulus:
            raise ValueError("the register cannot start at or above its modulus")
        if self.transport is Transport.MQTT and set(self.mqtt) != set(self.gateways):
            raise ValueError("an MQTT device needs [devices.mqtt.<gateway>] for each of its gateways")
        if self.transport is Transport.COAP and self.dh_key_file is None:
            raise ValueError("a CoAP device needs dh_key_file")
        return self


class Clone(Section):
    """For ``clone-attack``: the original's state that is copied with its element."""

    #: `state_dir` of the run that the original belongs to.
    of_state_dir: FilePath


class Config(Section):
    """All of ``devices.toml``."""

    out_dir: FilePath
    state_dir: FilePath
    seed: Annotated[int, Field(ge=0)]
    clock: ClockSection = ClockSection()
    network: Network = Network()
    retry: Retry = Retry()
    traffic: Traffic = Traffic()
    gateways: Annotated[tuple[Gateway, ...], Field(min_length=1, strict=False)]
    devices: Annotated[tuple[Device, ...], Field(min_length=1, max_length=MAX_DEVICES, strict=False)]
    clone: Clone | None = None

    @model_validator(mode="after")
    def _names_meet(self) -> Self:
        known = {gateway.id: gateway for gateway in self.gateways}
        if len(known) != len(self.gateways):
            raise ValueError("two gateways have one id")
        if len({device.id for device in self.devices}) != len(self.devices):
            raise ValueError("two devices have one id")
        for device in self.devices:
            for name in device.gateways:
                gateway = known.get(name)
                if gateway is None:
                    raise ValueError(f"device {device.id} names gateway {name}, which is not listed")
                if device.transport is Transport.MQTT and (gateway.mqtt is None or gateway.ca_file is None):
                    raise ValueError(f"gateway {name} needs mqtt and ca_file for device {device.id}")
                if device.transport is Transport.COAP and (
                    gateway.coap is None or gateway.edhoc_key_file is None or gateway.edhoc_kid is None
                ):
                    raise ValueError(f"gateway {name} needs coap, edhoc_key_file and edhoc_kid for device {device.id}")
        return self

    def gateway(self, name: str) -> Gateway:
        """The gateway called ``name``; it is listed, by validation."""
        return next(each for each in self.gateways if each.id == name)

    def business_clock(self) -> BusinessClock:
        """The clock of the run."""
        return self.clock.clock()


def load(file: Path) -> Config:
    """Read ``file``; paths in it are relative to it. Raise ``ConfigError``, which says what is wrong and where."""
    content = read_toml(file, absent="no such file: write one, `farthing-firmware-sim run --help` says how")
    try:
        config = Config.model_validate(content)
    except ValidationError as err:
        raise ConfigError(explain(file, err)) from err
    return _anchored(config, file.absolute().parent)


def _anchored(config: Config, folder: Path) -> Config:
    """``config`` with every path made absolute, relative to ``folder``."""

    def anchor(part: BaseModel) -> BaseModel:
        changed: dict[str, object] = {}
        for name in type(part).model_fields:
            value = getattr(part, name)
            if isinstance(value, Path):
                changed[name] = folder / value
            elif isinstance(value, BaseModel):
                changed[name] = anchor(value)
            elif isinstance(value, tuple):
                changed[name] = tuple(anchor(each) if isinstance(each, BaseModel) else each for each in value)
            elif isinstance(value, dict):
                changed[name] = {key: anchor(each) for key, each in value.items()}
        return part.model_copy(update=changed)

    anchored = anchor(config)
    assert isinstance(anchored, Config)
    return anchored
