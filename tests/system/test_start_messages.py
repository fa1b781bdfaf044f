"""What people are told when something is missing: one sentence, what is wrong and what to do, and a status that is not 0."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_town import CARD, CLERK, GATEWAY, TOLL, call, edge_toml

from farthing.hsm import load_party
from farthing_demo.scene import keys, table
from farthing_demo.settings import SettingsError, from_environment
from farthing_hsm_sim.ceremony import Parties, destroy_below

pytestmark = pytest.mark.real

#: Nobody listens on port 1 of loopback.
NOBODY = "127.0.0.1:1"
COMMANDS = {
    "cloud": ("farthing-cloud", "serve", "--config"),
    "edge": ("farthing-edge", "run", "--config"),
    "devices": ("farthing-firmware-sim", "run", "--config"),
    "admin": ("farthing-admin", "--config"),
}


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    folder = tmp_path / "parties"
    # By the command: this process may have tokens of the running town open, and a ceremony wants the module for itself.
    named = ("--gateway", GATEWAY, "--device", TOLL, "--person", CLERK, "--shared-tokens")
    held = call("farthing-hsm-sim", "ceremony", "--out", folder, *named)
    assert held.returncode == 0, held.stderr
    yield Parties(
        ca=load_party(folder / "ca"),
        cloud=load_party(folder / "cloud"),
        gateways={GATEWAY: load_party(folder / GATEWAY)},
        devices={TOLL: load_party(folder / "devices" / TOLL)},
        people={CLERK: load_party(folder / CLERK)},
    )
    destroy_below(folder)


@pytest.fixture
def configs(parties: Parties, tmp_path: Path) -> dict[str, Path]:
    """A good file for each command."""
    ca_file = parties.ca.certificates / "ca.pem"
    gateway, device = parties.gateways[GATEWAY], parties.devices[TOLL]
    texts = {
        "cloud": keys({"state_dir": tmp_path / "cloud", "party": parties.cloud.folder, "ca_file": ca_file})
        + table("database", {"embedded": True}),
        "edge": edge_toml(tmp_path / GATEWAY, parties, NOBODY, NOBODY),
        "admin": keys({"address": NOBODY, "party": parties.people[CLERK].folder, "ca_file": ca_file}),
        "devices": keys({"out_dir": tmp_path / "out", "state_dir": tmp_path / "devices", "seed": 1})
        + table(
            "gateways",
            {
                "id": GATEWAY,
                "coap": NOBODY,
                "grant_key_file": gateway.public / "grant.der",
                "edhoc_key_file": gateway.public / "edhoc.der",
                "edhoc_kid": gateway.kid.hex(),
            },
            repeated=True,
        )
        + table(
            "devices",
            {
                "id": TOLL,
                "kind": "toll",
                "party": device.folder,
                "gateways": [GATEWAY],
                "transport": "coap",
                "report_interval_s": 60,
                "tariffs": [{"id": "toll", "version": 1}],
                "tokens": [CARD],
                "register": {"id": "1", "epoch": 1, "unit": "passage", "modulus": 2**32, "rated_per_hour": 3_600},
                "dh_key_file": device.folder / "static-dh.key",
            },
            repeated=True,
        ),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return {name: tmp_path / f"{name}.toml" for name in texts}


def told(name: str, config: Path) -> str:
    """What the command of that name says when it does not start."""
    more = ("operators", "list") if name == "admin" else ()
    done = call(*COMMANDS[name], config, *more)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_every_command_says_what_is_wrong(configs: dict[str, Path], parties: Parties, tmp_path: Path) -> None:
    no_certificate = tmp_path / "ca.pem"
    no_certificate.write_text("rubbish")
    for name, config in configs.items():
        good = config.read_text()
        config.write_text("surprise = 1\n" + good)
        assert "unknown key surprise: remove it" in told(name, config)
        if "ca.pem" in good:
            line = next(line for line in good.splitlines() if line.startswith("ca_file"))
            config.write_text(good.replace(line, f'ca_file = "{no_certificate}"'))
            assert f"{no_certificate} is no certificate (PEM): copy" in told(name, config)
        config.write_text(good)
    assert "the back office does not answer: start it with `farthing-cloud serve`" in told("admin", configs["admin"])

    (parties.gateways[GATEWAY].public / "grant.der").unlink()
    assert "is not a gateway's grant key" in told("devices", configs["devices"])

    for party in (parties.cloud, parties.gateways[GATEWAY], parties.devices[TOLL], parties.people[CLERK]):
        party.pin_file.write_text("0000-wrong\n")
    for name, config in configs.items():
        assert "does not hold the PIN of token" in told(name, config)


def test_a_part_of_a_file_that_cannot_be_told_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meters.csv"
    file.write_text("mac,datetime,kwhh\nM,2012-10-18 00:00:00,0.1\n")
    done = call("farthing-firmware-sim", "stations", file, "--from", "yesterday")
    assert (done.returncode, "--from and --to take a day" in done.stderr) == (2, True)
    # The day's slice is the seed's choice: what it would not obey it does not pass over.
    monkeypatch.setenv("DEMO_REPLAY", str(file))
    monkeypatch.setenv("DEMO_REPLAY_FROM", "2012-10-18")
    with pytest.raises(SettingsError, match="need DEMO_REPLAY_ALL=1"):
        from_environment()
    monkeypatch.setenv("DEMO_REPLAY_ALL", "1")
    assert from_environment().file_bounds == ("--from", "2012-10-18")
