"""A real broker presents the key that the gateway renewed, and nobody else gets its signal."""

import os
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from farthing.hsm import Hsm, Party, Token
from farthing_edge.broker import BrokerFiles, client_key, write_broker
from farthing_edge.broker_key import RENEW_BEFORE, BrokerKey, broker_pid
from farthing_hsm_sim.ceremony import hold
from farthing_hsm_sim.plan import Plan

pytestmark = pytest.mark.real
PATIENCE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """A gateway's token and a broker that runs."""

    token: Token
    party: Party
    port: int
    files: BrokerFiles
    folder: Path

    def key(self, now: datetime) -> BrokerKey:
        return BrokerKey(
            token=self.token,
            party=self.party,
            listen=f"127.0.0.1:{self.port}",
            directory=self.folder,
            socket=None,
            now=lambda: now,
        )

    def presented(self) -> bytes:
        """The certificate that the broker shows now."""
        own = client_key(self.token, self.party, "gateway", directory=self.folder.parent / "own")
        context = ssl.create_default_context(cafile=str(own.ca_file))
        context.load_cert_chain(str(own.certificate_file), str(own.key_file))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as over_tls,
        ):
            certificate = over_tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    parties = hold(Plan(gateways=("gw-1",), shared_tokens=True), tmp_path / "parties")
    party = parties.gateways["gw-1"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with Hsm.of(party) as hsm:
        token, folder = hsm.attach(party), tmp_path / "broker"
        files = write_broker(token, party, listen=f"127.0.0.1:{port}", directory=folder)
        process = subprocess.Popen(files.command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE_S
        while broker_pid(folder) != process.pid:
            assert process.poll() is None
            assert time.monotonic() < until
        yield Site(token=token, party=party, port=port, files=files, folder=folder)
        process.terminate()
        process.wait(10)


def test_a_key_is_renewed_in_time_and_the_broker_shows_the_new_one(site: Site) -> None:
    first = site.presented()
    not_after = site.files.transport_key.not_after
    assert not site.key(not_after - RENEW_BEFORE - timedelta(minutes=1)).look()
    assert site.presented() == first

    assert site.key(not_after - RENEW_BEFORE + timedelta(minutes=1)).look()
    until = time.monotonic() + PATIENCE_S
    while site.presented() == first:
        assert time.monotonic() < until, "the broker goes on with its old key"


def test_a_number_that_belongs_to_another_process_by_now_gets_no_signal() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert broker_pid(folder) is None
        (folder / "mosquitto.pid").write_text(f"{os.getpid()}\n")
        assert broker_pid(folder) is None
        (folder / "mosquitto.pid").write_text("none")
        assert broker_pid(folder) is None
