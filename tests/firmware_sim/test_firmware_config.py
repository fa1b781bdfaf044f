"""``devices.toml`` is strict: what it does not know, or cannot mean, stops the start with a sentence."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from farthing.configuration import ConfigError
from farthing_firmware_sim.command import app
from farthing_firmware_sim.config import Kind, Transport, load, token_bytes
from farthing_firmware_sim.device.values import Profile
from farthing_firmware_sim.fleet import nameplate_of

EXAMPLE = """
out_dir = "out"
state_dir = "state"
seed = 7

[clock]
simulation = true
epoch_us = 1772420400000000
real_epoch_us = 1795000000000000
rate = 900

[network]
loss_ppm = 20000

[[gateways]]
id = "gw-1"
mqtt = "127.0.0.1:8883"
coap = "127.0.0.1:5683"
ca_file = "ca.pem"
grant_key_file = "grant.der"
edhoc_key_file = "edhoc.der"
edhoc_kid = "0b0c0d0e0f101112"

[[devices]]
id = "charge-1"
kind = "charger"
party = "parties/charge-1"
gateways = ["gw-1"]
transport = "mqtt"
report_interval_s = 720
tariffs = [{id = "charge", version = 1}]
tokens = ["anna-card", "hex:00ff"]
register = {id = "1", epoch = 1, unit = "Wh", modulus = 1000000000, rated_per_hour = 11000, starts_at = 52000}
[devices.mqtt.gw-1]
certificate_file = "charge-1.pem"
key_file = "charge-1.key"

[[devices]]
id = "house-1"
kind = "smart-meter"
party = "parties/house-1"
gateways = ["gw-1"]
transport = "coap"
dh_key_file = "parties/house-1/static-dh.key"
report_interval_s = 1800
tariffs = [{id = "house", version = 2}]
register = {id = "1", epoch = 1, unit = "Wh", modulus = 1000000000, rated_per_hour = 14000}
"""


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Commands configure the process's log; other tests of this process want theirs."""
    yield
    structlog.reset_defaults()


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "devices.toml"
    file.write_text(text)
    return file


def test_the_example_is_read_and_paths_are_the_files(tmp_path):
    config = load(write(tmp_path, EXAMPLE))
    charger, house = config.devices
    assert (charger.kind, charger.transport, house.kind) == (Kind.CHARGER, Transport.MQTT, Kind.SMART_METER)
    assert charger.party == tmp_path / "parties/charge-1"
    assert charger.mqtt["gw-1"].key_file == tmp_path / "charge-1.key"
    assert config.gateways[0].grant_key_file == tmp_path / "grant.der"
    assert [token_bytes(each) for each in charger.tokens] == [b"anna-card", b"\x00\xff"]
    plate = nameplate_of(house, config)
    assert plate.profile is Profile.STANDING
    assert plate.standing_gateway == "gw-1"
    assert plate.standing_tariff is not None
    assert plate.standing_tariff.version == 2


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = 7", "seed = 7\nsede = 8", "sede"),
        ("seed = 7", 'seed = "7"', "seed"),
        ("simulation = true", "simulation = false", "simulation"),
        ("rate = 900", "rate = 0", "rate"),
        ('kind = "charger"', 'kind = "kettle"', "kind"),
        ('gateways = ["gw-1"]\ntransport = "coap"', 'gateways = ["gw-9"]\ntransport = "coap"', "gw-9"),
        ('tokens = ["anna-card", "hex:00ff"]', "tokens = []", "tokens"),
        ('"hex:00ff"', '"hex:zz"', "tokens"),
        ('mqtt = "127.0.0.1:8883"\n', "", "needs mqtt"),
        ('edhoc_kid = "0b0c0d0e0f101112"\n', "", "edhoc_kid"),
        ("[devices.mqtt.gw-1]", "[devices.mqtt.gw-2]", "devices.mqtt"),
        ("starts_at = 52000", "starts_at = 1000000000", "modulus"),
        ('id = "house-1"', 'id = "charge-1"', "one id"),
        ('id = "house-1"', 'id = "../house"', "id"),
        ("loss_ppm = 20000", "loss_ppm = 2000000", "loss_ppm"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, old, new, says):
    assert old in EXAMPLE
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, EXAMPLE.replace(old, new)))
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["not toml", "\x00"])
def test_no_toml_no_start(tmp_path, text):
    with pytest.raises(ConfigError):
        load(write(tmp_path, text))


def test_commands_say_what_is_wrong_and_stop(tmp_path):
    runner = CliRunner()
    missing = runner.invoke(app, ["run", "--config", str(tmp_path / "none.toml")])
    assert missing.exit_code == 2
    file = write(tmp_path, EXAMPLE)
    no_party = runner.invoke(app, ["run", "--config", str(file)])
    assert no_party.exit_code == 2
    assert "ceremony" in no_party.output
    not_a_clone = runner.invoke(app, ["clone-attack", "--config", str(file)])
    assert not_a_clone.exit_code == 2
    unknown = runner.invoke(app, ["attempt", "--config", str(file), "--device", "house-1", "--gateway", "gw-1"])
    assert unknown.exit_code == 2
    assert "house-1" in unknown.output
