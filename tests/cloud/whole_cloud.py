"""The whole cloud as a process, and commands that people give it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from back_office_parts import run_command

#: Start-up takes two seconds on two idle cores.
START_TIMEOUT_S = 60.0
#: Between two looks it is the cloud that has the processor.
LOOK_EVERY_S = 0.02


@dataclass
class RunningCloud:
    """``farthing-cloud serve`` of a configuration file."""

    config: Path
    state_dir: Path
    log: Path
    services: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, str]:
        """Start; the addresses once it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "farthing-cloud"), "serve", "--config", str(self.config),
                    *self.services,
                ],
                stderr=log,
            )  # fmt: skip
        run_file = self.state_dir / "run.json"

        def ready() -> dict[str, str] | None:
            assert self.process is not None
            try:
                content = json.loads(run_file.read_text())
            except FileNotFoundError:
                return None
            addresses: dict[str, str] = content["addresses"]
            return addresses if content["pid"] == self.process.pid else None

        found: dict[str, str] = self.until(ready, "run.json")
        return found

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """What ``holds`` finds, while it runs. Between two looks it is the process that is waited for: if it ends, nothing will come."""
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (found := holds()):
            assert time.monotonic() < deadline, f"waited for {what}: {self.log.read_text()[-2000:]}"
            with suppress(subprocess.TimeoutExpired):
                status = self.process.wait(LOOK_EVERY_S)
                raise AssertionError(f"it ended with {status}: {self.log.read_text()[-2000:]}")
        return found

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """End it; its exit status and the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        assert status in (0, -number), self.log.read_text()[-3000:]
        return status, time.monotonic() - began


@dataclass
class Person:
    """``farthing-admin`` of one person."""

    config: Path

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run_command("farthing-admin", "--config", self.config, *arguments)

    def json(self, *arguments: object) -> Any:
        """The document that a command prints; it must succeed."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def write_cloud(folder: Path, parties: Path, more: str = "") -> RunningCloud:
    """A configuration in ``folder`` for one process with everything."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "cloud.toml"
    config.write_text(
        f'state_dir = "{folder / "state"}"\nparty = "{parties / "cloud"}"\n'
        f'ca_file = "{parties / "ca/certificates/ca.pem"}"\n'
        + (more or '[database]\nembedded = true\n[publiclog]\ninterval_s = 1\nlisten = "127.0.0.1:0"\n')
    )
    return RunningCloud(config=config, state_dir=folder / "state", log=folder / "cloud.log")


def write_person(folder: Path, parties: Path, address: str, name: str = "alice") -> Person:
    """``admin.toml`` of a person."""
    config = folder / "admin.toml"
    config.write_text(
        f'address = "{address}"\nparty = "{parties / name}"\nca_file = "{parties / "ca/certificates/ca.pem"}"\n'
    )
    return Person(config=config)


def everything(parties: Path) -> str:
    """A file to apply: two sites with a gateway each, a charger, a transponder, an account, a token, a split rule."""
    return f"""
[[operators]]
id = "city"
name = "City"
currency = "EUR"

[[agencies]]
id = "A"
operator = "city"
name = "Transit"

[[agencies]]
id = "B"
operator = "city"
name = "Grid"

[[sites]]
id = "S1"
operator = "city"
time_zone = "Europe/Berlin"
floor = {{ per_token = "2.00", per_account = "5.00", all_tokens = "20.00" }}
seal = {{ amount = "5.00", records = 200, age_s = 2 }}

[[sites]]
id = "S2"
operator = "city"
time_zone = "Europe/Berlin"
seal = {{ amount = "5.00", records = 200, age_s = 2 }}

[[gateways]]
id = "gw-1"
operator = "city"
site = "S1"
exposure = "50.00"
party = "{parties / "gw-1"}"

[[gateways]]
id = "gw-2"
operator = "city"
site = "S2"
exposure = "50.00"
party = "{parties / "gw-2"}"

[[split_rules]]
site = "S1"
operator = "city"
version = 1
parts = [{{ path = "agency/A", percent = "60" }}, {{ path = "agency/B", percent = "30" }}, {{ path = "fee/city", percent = "10" }}]
remainder = "agency/A"

[[tariffs]]
id = "charge"
operator = "city"
version = 1
currency = "EUR"
[tariffs.ocpi]
country_code = "DE"
party_id = "MET"
id = "charge"
currency = "EUR"
last_updated = "2026-03-01T00:00:00Z"
elements = [
  {{ price_components = [
    {{ type = "FLAT", price = 0.50, vat = 20.0, step_size = 1 }},
    {{ type = "ENERGY", price = 0.25, vat = 20.0, step_size = 100 }},
  ] }},
]

[[tariffs]]
id = "toll"
operator = "city"
version = 1
currency = "EUR"
[tariffs.ocpi]
country_code = "DE"
party_id = "MET"
id = "toll"
currency = "EUR"
tax_included = true
last_updated = "2026-03-01T00:00:00Z"
elements = [{{ price_components = [{{ type = "UNIT", price = 1.20, vat = 7, step_size = 1 }}] }}]

[[accounts]]
id = "acme"
operator = "city"
currency = "EUR"
debt_limit = "3.00"
preload = "2.50"

[[fundings]]
operator = "city"
account = "acme"
amount = "10.00"
payment_id = "pay-1"
source = "bank/main"

[[devices]]
id = "chg-1"
operator = "city"
sites = ["S1"]
party = "{parties / "devices/chg-1"}"
profile = "session"
tariff = "charge"
report_interval_s = 60
stoppable = true
registers = [{{ id = "1", epoch = 1, unit = "Wh", modulus = 1000000000, rated_per_hour = 22000 }}]

[[devices]]
id = "toll-1"
operator = "city"
sites = ["S1", "S2"]
party = "{parties / "devices/toll-1"}"
profile = "one-shot"
tariff = "toll"
report_interval_s = 60
stoppable = false
registers = [{{ id = "1", epoch = 1, unit = "passage", modulus = 1000000, rated_per_hour = 600 }}]

[[tokens]]
operator = "city"
account = "acme"
label = "fleet 1"
token = "hex:04a2b17790c3d1"
"""
