"""The broker's key lasts a day: the gateway renews it before that, and tells the broker.

Rule 1: only where ``edge.toml`` says so (``mqtt.broker_directory``): the broker may be another host's.
Rule 2: a signal goes to the process that runs with the configuration in that folder, and to no other that has its number by now.
Rule 3: what fails is tried again, and said once for each cause; connections that stand are not touched.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509

from farthing.hsm import HsmError, Party, Token
from farthing_edge.broker import BROKER_NAME, CONFIGURATION_FILE, PID_FILE, BrokerError, write_broker

_log = structlog.get_logger(__name__)

#: A key with less left is renewed: half its day, so that a token that fails for hours still finds time.
RENEW_BEFORE = timedelta(hours=12)
#: How often it is looked at, seconds: a clock that was set, or a folder written again, shows within that.
LOOK_EVERY_S = 600.0
#: After a failure, seconds.
AGAIN_S = 60.0


class BrokerKey:
    """Keeps the key of the broker in ``directory`` young, for as long as it runs."""

    def __init__(
        self,
        *,
        token: Token,
        party: Party,
        listen: str,
        directory: Path,
        socket: Path | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._token = token
        self._party = party
        self._listen = listen
        self._directory = directory
        self._socket = socket
        self._now = now

    async def run(self) -> None:
        """Look, renew, wait, until cancelled."""
        said: str | None = None
        while True:
            try:
                await asyncio.to_thread(self.look)
            except (HsmError, BrokerError, OSError, ValueError) as err:
                if str(err) != said:
                    said = str(err)
                    _log.error("broker_key_not_renewed", directory=str(self._directory), reason=said)
                await asyncio.sleep(AGAIN_S)
            else:
                said = None
                await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> bool:
        """Renew the key if its time is near; whether it was. Blocking; ``HsmError``, ``BrokerError``, ``OSError``, ``ValueError``."""
        certificate = (self._directory / f"{BROKER_NAME}.pem").read_bytes()
        left = x509.load_pem_x509_certificate(certificate).not_valid_after_utc - self._now()
        if left > RENEW_BEFORE:
            return False
        files = write_broker(
            self._token, self._party, listen=self._listen, directory=self._directory, socket=self._socket
        )
        pid = broker_pid(self._directory)
        if pid is not None:
            os.kill(pid, signal.SIGHUP)
        _log.info("broker_key_renewed", not_after=files.transport_key.not_after.isoformat(), told=pid is not None)
        return True


def broker_pid(directory: Path) -> int | None:
    """The process that runs with ``directory``'s configuration, or None."""
    try:
        pid = int((directory / PID_FILE).read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(directory / CONFIGURATION_FILE) in command else None
