"""Write what the commands read: the ceremony's plan, one configuration per daemon, the file that the back office applies."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from farthing.hsm import load_party
from farthing_demo import cast
from farthing_demo.settings import DAY_BEGINS_US, Settings

#: Statistics of meters are read and printed in the zone of their site.
TIME_ZONE = "Europe/Berlin"
#: A quota outlives the day: what is set aside before the uplinks go must be there until they are back, five hours later.
QUOTA_LIFETIME_S = 48 * 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a run keeps what."""

    out: Path
    #: Of the embedded PostgreSQL: never below a home, its parents are made readable for its own user.
    database: Path

    @property
    def parties(self) -> Path:
        return self.out / "parties"

    def party(self, name: str) -> Path:
        return self.parties / name

    def device_party(self, device: str) -> Path:
        return self.parties / "devices" / device

    def clone_party(self, device: str) -> Path:
        return self.parties / "clone" / device

    def state(self, name: str) -> Path:
        return self.out / "state" / name

    def config(self, name: str) -> Path:
        return self.out / "config" / f"{name}.toml"

    @property
    def ca_file(self) -> Path:
        return self.party("ca") / "certificates" / "ca.pem"


def toml_value(value: object) -> str:
    """``value`` as TOML: text, truth, whole numbers, lists and inline tables of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Path | str):
        return json.dumps(str(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def table(name: str, values: dict[str, object], *, repeated: bool = False) -> str:
    """One TOML table, or one of an array of tables."""
    head = f"[[{name}]]" if repeated else f"[{name}]"
    return "\n".join([head, *(f"{key} = {toml_value(value)}" for key, value in values.items())]) + "\n\n"


def keys(values: dict[str, object]) -> str:
    """The keys before the first table."""
    return "\n".join(f"{key} = {toml_value(value)}" for key, value in values.items()) + "\n\n"


def clock_table(settings: Settings, real_epoch_us: int) -> str:
    """The business day that every process of the run shares."""
    return table(
        "clock",
        {"simulation": True, "epoch_us": DAY_BEGINS_US, "real_epoch_us": real_epoch_us, "rate": settings.rate},
    )


def cloud_toml(folders: Folders, settings: Settings, real_epoch_us: int) -> str:
    """``farthing-cloud serve`` of the run."""
    return (
        keys({"state_dir": folders.state("cloud"), "party": folders.party("cloud"), "ca_file": folders.ca_file})
        + table("database", {"embedded": True, "data_dir": folders.database})
        + table("ledger", {"directive_head_interval_s": 1, "quota_lifetime_s": QUOTA_LIFETIME_S})
        + clock_table(settings, real_epoch_us)
    )


def edge_toml(
    folders: Folders, settings: Settings, real_epoch_us: int, *, gateway: str, uplink: str, broker: str, coap: str
) -> str:
    """``farthing-edge run`` of one gateway; addresses are host:port."""
    return (
        keys(
            {
                "gateway_id": gateway,
                "state_dir": folders.state(gateway),
                "party": folders.party(gateway),
                "ca_file": folders.ca_file,
                "directive_key_file": folders.party("cloud") / "public" / "directive.der",
            }
        )
        + "[uplink]\n"
        + keys({"address": uplink})
        + "max_backoff_s = 1.0\ncall_timeout_s = 3.0\nreceipt_timeout_s = 5.0\n\n"
        + table("mqtt", {"address": broker})
        + table("coap", {"listen": coap})
        + clock_table(settings, real_epoch_us)
    )


def admin_toml(folders: Folders, back_office: str) -> str:
    """``farthing-admin`` of the run's clerk."""
    return keys({"address": back_office, "party": folders.party(cast.PERSON), "ca_file": folders.ca_file})


def apply_toml(folders: Folders, town: cast.Cast) -> str:
    """Everything the back office is told, in one file."""
    rows = [table("operators", {"id": cast.OPERATOR, "name": "Metro", "currency": cast.CURRENCY}, repeated=True)]
    rows += [
        table("agencies", {"id": agency, "operator": cast.OPERATOR, "name": agency.title()}, repeated=True)
        for agency in cast.AGENCIES
    ]
    for part in cast.SITES:
        site: dict[str, object] = {
            "id": part.site,
            "operator": cast.OPERATOR,
            "time_zone": TIME_ZONE,
            "seal": {"amount": "5.00", "records": 50, "age_s": 1},
        }
        gateway: dict[str, object] = {
            "id": part.gateway,
            "operator": cast.OPERATOR,
            "site": part.site,
            "exposure": town.exposure,
            "party": folders.party(part.gateway),
        }
        rule: dict[str, object] = {
            "site": part.site,
            "operator": cast.OPERATOR,
            "version": 1,
            "parts": [{"path": path, "percent": percent} for path, percent in cast.SPLIT],
            "remainder": cast.REMAINDER,
        }
        rows += [table("sites", site, repeated=True), table("gateways", gateway, repeated=True)]
        rows.append(table("split_rules", rule, repeated=True))
    for tariff, elements in cast.TARIFFS.items():
        file = folders.out / "config" / f"tariff-{tariff}.json"
        head = {
            "country_code": "DE",
            "party_id": "MET",
            "id": tariff,
            "currency": cast.CURRENCY,
            "last_updated": "2026-03-01T00:00:00Z",
        }
        # The components are JSON text already: spliced in, so that 0.35 stays what it says.
        file.write_text(json.dumps(head)[:-1] + ", " + elements[1:])
        rows.append(
            table(
                "tariffs",
                {"id": tariff, "operator": cast.OPERATOR, "version": 1, "currency": cast.CURRENCY, "file": file},
                repeated=True,
            )
        )
    for account in town.accounts:
        rows.append(
            table(
                "accounts",
                {
                    "id": account.account,
                    "operator": cast.OPERATOR,
                    "currency": cast.CURRENCY,
                    "credit_limit": "0.00",
                    "debt_limit": account.debt_limit,
                    "preload": account.preload,
                },
                repeated=True,
            )
        )
        rows.append(
            table(
                "fundings",
                {
                    "operator": cast.OPERATOR,
                    "account": account.account,
                    "amount": account.funds,
                    "payment_id": f"top-up-{account.account}",
                    "source": "bank/main",
                },
                repeated=True,
            )
        )
        rows += [
            table(
                "tokens",
                {
                    "operator": cast.OPERATOR,
                    "account": account.account,
                    "label": f"{account.account} {n}",
                    "token": token,
                },
                repeated=True,
            )
            for n, token in enumerate(account.tokens, 1)
        ]
    rows += [_device(folders, device) for device in town.devices]
    return "".join(rows)


def _device(folders: Folders, device: cast.DevicePart) -> str:
    kind = cast.KINDS[device.kind]
    values: dict[str, object] = {
        "id": device.device,
        "operator": cast.OPERATOR,
        "sites": list(device.sites),
        "party": folders.device_party(device.device),
        "profile": kind["profile"],
        "tariff": kind["tariff"],
        "tariff_version": 1,
        "report_interval_s": device.report_interval_s or kind["report_interval_s"],
        "stoppable": device.stoppable,
        "registers": [
            {
                "id": "1",
                "epoch": 1,
                "unit": kind["unit"],
                "modulus": kind["modulus"],
                "rated_per_hour": device.rated_per_hour or kind["rated_per_hour"],
            }
        ],
    }
    if device.account is not None:
        values["standing_account"] = device.account
    return table("devices", values, repeated=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Where a site's gateway is reached by devices, host:port."""

    mqtt: str
    coap: str
    #: What the broker's certificate must chain to.
    ca_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttKey:
    """A device's transport key at one broker."""

    certificate_file: Path
    key_file: Path


#: By device and gateway.
MqttKeys = dict[tuple[str, str], MqttKey]


def devices_toml(
    folders: Folders,
    town: cast.Cast,
    settings: Settings,
    real_epoch_us: int,
    reached: dict[str, Reached],
    mqtt_keys: MqttKeys,
) -> str:
    """``farthing-firmware-sim run``: every device of the cast."""
    traffic: dict[str, object] = {}
    if settings.replay is not None and not settings.whole_file:
        traffic = {"mode": "replay", "file": settings.replay}
    text = (
        keys(
            {
                "out_dir": folders.out / "devices",
                "state_dir": folders.state("devices"),
                "seed": settings.seed,
            }
        )
        + clock_table(settings, real_epoch_us)
        # Lost, doubled and overtaken messages, both ways: ASSUMPTION, a bad day of a mobile network. A file of years has better ones,
        # or it would mostly wait for repetitions.
        + table(
            "network",
            {"loss_ppm": 1_000 if settings.whole_file else 20_000, "duplicate_ppm": 30_000, "reorder_ppm": 30_000},
        )
        + (table("traffic", traffic) if traffic else "")
    )
    text += "".join(_reached(folders, gateway, where) for gateway, where in reached.items())
    return text + "".join(_simulated(folders, town, device, mqtt_keys) for device in town.devices)


def clone_toml(
    folders: Folders,
    town: cast.Cast,
    settings: Settings,
    real_epoch_us: int,
    reached: dict[str, Reached],
    *,
    at_gateway: str,
    uses: int,
) -> str:
    """``farthing-firmware-sim clone-attack``: the copied element spends at ``at_gateway``."""
    original = next(device for device in town.devices if device.device == cast.CLONED)
    return (
        keys(
            {
                "out_dir": folders.out / "clone",
                "state_dir": folders.state("clone"),
                "seed": settings.seed + 1,
            }
        )
        + clock_table(settings, real_epoch_us)
        + table("clone", {"of_state_dir": folders.state("devices")})
        + _reached(folders, at_gateway, reached[at_gateway])
        + _simulated(
            folders,
            town,
            original,
            {},
            party=folders.clone_party(original.device),
            gateways=(at_gateway,),
            uses=uses,
            gap_s=900,
        )
    )


def _reached(folders: Folders, gateway: str, where: Reached) -> str:
    party = load_party(folders.party(gateway))
    return table(
        "gateways",
        {
            "id": gateway,
            "mqtt": where.mqtt,
            "coap": where.coap,
            "ca_file": where.ca_file,
            "grant_key_file": party.public / "grant.der",
            "edhoc_key_file": party.public / "edhoc.der",
            "edhoc_kid": party.kid.hex(),
        },
        repeated=True,
    )


def _simulated(
    folders: Folders,
    town: cast.Cast,
    device: cast.DevicePart,
    mqtt_keys: MqttKeys,
    *,
    party: Path | None = None,
    gateways: tuple[str, ...] | None = None,
    uses: int | None = None,
    gap_s: int | None = None,
) -> str:
    kind = cast.KINDS[device.kind]
    folder = party or folders.device_party(device.device)
    known = gateways or tuple(part.gateway for part in cast.SITES if part.site in device.sites)
    on_mqtt = device.kind in cast.MQTT_KINDS
    values: dict[str, object] = {
        "id": device.device,
        "kind": device.kind,
        "party": folder,
        "gateways": list(known),
        "transport": "mqtt" if on_mqtt else "coap",
        "report_interval_s": device.report_interval_s or kind["report_interval_s"],
        "stoppable": device.stoppable,
        "tariffs": [{"id": kind["tariff"], "version": 1}],
        "register": {
            "id": "1",
            "epoch": 1,
            "unit": kind["unit"],
            "modulus": kind["modulus"],
            "rated_per_hour": device.rated_per_hour or kind["rated_per_hour"],
            "starts_at": cast.STARTS_AT[device.kind],
        },
    }
    tokens = town.tokens_of(device)
    if tokens:
        values["tokens"] = list(tokens)
    if uses is not None:
        values["uses"] = uses
    gap_s = gap_s or cast.GAP_S.get(device.kind)
    if gap_s is not None:
        values["gap_s"] = gap_s
    if not on_mqtt:
        values["dh_key_file"] = folder / "static-dh.key"
    if device.device == cast.CLONED and len(known) > 1:
        # The original stays at the first site, so that copy and original are sure to meet the same passage at two.
        values["gateway_weights"] = [1] + [0] * (len(known) - 1)
    text = table("devices", values, repeated=True)
    for gateway in known if on_mqtt else ():
        key = mqtt_keys[device.device, gateway]
        text += table(f"devices.mqtt.{gateway}", {"certificate_file": key.certificate_file, "key_file": key.key_file})
    return text
