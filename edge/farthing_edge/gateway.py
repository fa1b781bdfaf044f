"""The composition root: reads one frozen configuration, builds everything, runs one task group, and decides nothing.

Order of a start: what can be wrong with configuration, token, journal and addresses is found out before anything is said to
anybody. Order of a stop: no new statements, then the uplink, then the engine after the commit that is under way.
"""

import asyncio
import gc
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from farthing.clock import SECOND_US, BusinessClock
from farthing.daemon import write_run_file
from farthing.device.cose import VerifyingKey
from farthing.device.messages import Answer, MessageError
from farthing.edhoc import TokenKey, credential
from farthing.hsm import Hsm, HsmError, Party, Token, load_party
from farthing.hsm.tls import channel_credentials, read_roots
from farthing.hsm.transport import TransportKey
from farthing.ids import DeviceId
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization.commands import DeviceStatement, TicksArrived
from farthing_edge.authorization.events import DirectiveApplied
from farthing_edge.authorization.state import CoreSettings
from farthing_edge.broker import client_key
from farthing_edge.broker_key import BrokerKey
from farthing_edge.config import GATEWAY_USER, EdgeConfig, MqttSection
from farthing_edge.engine import Engine, EngineError, EngineLimits, SignedBatchRow, TokenSigner, Waiting
from farthing_edge.engine.sealed_witness import TokenWitness
from farthing_edge.engine.upkeep import DAY_US, UpkeepLimits
from farthing_edge.engine.view import ClockView
from farthing_edge.http import HttpListener
from farthing_edge.http import ListenError as HttpListenError
from farthing_edge.ingress.coap import CoapIngress
from farthing_edge.ingress.coap import ListenError as CoapListenError
from farthing_edge.ingress.guard import RubbishRing
from farthing_edge.ingress.handshakes import DeviceKey, Handshakes
from farthing_edge.ingress.mqtt import MqttIngress
from farthing_edge.ingress.statements import StatementDoor
from farthing_edge.journal.errors import JournalError
from farthing_edge.journal.store import Journal
from farthing_edge.log import configure_logs
from farthing_edge.metrics import Metrics
from farthing_edge.site_keys import site_key_label, take_site_key
from farthing_edge.uplink import session

_log = structlog.get_logger(__name__)

EDHOC = "edhoc"
#: The promise is 5 s.
STOP_AT_MOST_S = 4.5
#: Longest that the journal's or the token's thread waits for the interpreter while the loop computes. Python's own 5 ms, several times for each commit
#: and each signature, is more than an authorization may take.
SWITCH_INTERVAL_S = 0.001
#: New objects between two looks of the collector, and how many of the smaller looks come before a larger one. What a use leaves behind is kept on purpose
#: or gone by its count; with Python's 700 the collector walked every authorization several times for nothing.
COLLECTOR_THRESHOLDS = (10_000, 20, 20)
#: Silent uses that the status names; how many there are stands in the metrics.
MAX_OVERDUE_SHOWN = 100
_DECOMMISSIONED = directive_pb2.DEVICE_STATUS_DECOMMISSIONED


class StartError(Exception):
    """The gateway cannot start, or cannot go on; the message says what is wrong and what to do."""


def core_settings(config: EdgeConfig, clock: BusinessClock | None = None) -> CoreSettings:
    """What the core is told of the configuration."""
    clock = clock or config.clock.clock()
    return CoreSettings(
        gateway_id=config.gateway,
        directive_max_age_us=config.limits.directive_max_age_s * SECOND_US,
        quota_retry_us=config.limits.quota_retry_s * SECOND_US,
        quota_idle_us=config.limits.quota_idle_s * SECOND_US,
        # What passes between a payer and a yes passes in real time, however fast the business clock is.
        grant_lapse_us=config.limits.grant_lapse_s * SECOND_US * clock.rate,
        prices_by_untrusted_clock=config.clock.fallback == "own_clock",
        clock_epoch_us=clock.epoch_us,
        clock_real_epoch_us=clock.real_epoch_us,
        clock_rate=clock.rate,
    )


def upkeep_limits(config: EdgeConfig) -> UpkeepLimits:
    """What the configuration says of the journal."""
    section = config.journal
    return UpkeepLimits(
        snapshot_entries=section.snapshot_entries,
        retention_us=None if section.retention_days is None else section.retention_days * DAY_US,
        backup_horizon_us=section.backup_horizon_days * DAY_US,
    )


def run_gateway(config: EdgeConfig) -> None:
    """Run until SIGTERM or SIGINT; raise ``StartError``."""
    configure_logs(config.log.level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    try:
        party = load_party(config.party)
        _check_party(config, party)
        directive_key = _directive_key(config)
        # Read again for each connection; what is no certificate is no start.
        read_roots(config.ca_file)
        with Hsm.of(party) as hsm:
            asyncio.run(_run(config, party, hsm.attach(party), directive_key))
    except (HsmError, JournalError) as err:
        raise StartError(str(err)) from err
    except OSError as err:
        raise StartError(f"{err.filename or config.state_dir}: {err.strerror}") from err


async def _run(config: EdgeConfig, party: Party, token: Token, directive_key: VerifyingKey) -> None:
    await _Gateway(config, party, token, directive_key).run()


def _check_party(config: EdgeConfig, party: Party) -> None:
    if party.kind != "gateway" or party.id != config.gateway_id:
        raise StartError(
            f"party: {config.party} is the {party.kind} {party.id!r}, and gateway_id is {config.gateway_id!r}: "
            "write the id of the party, or the folder of this gateway"
        )


def _directive_key(config: EdgeConfig) -> VerifyingKey:
    try:
        return VerifyingKey.from_spki(config.directive_key_file.read_bytes())
    except (OSError, MessageError) as err:
        raise StartError(
            f"directive_key_file: {config.directive_key_file} is no public key on P-256 (DER): "
            "copy <cloud's party>/public/directive.der"
        ) from err


class _ForIngress:
    """The engine as ingress sees it."""

    __slots__ = ("_engine", "_view")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._view = engine.view

    def hear(self, command: DeviceStatement | TicksArrived, waiting: Waiting, /) -> None:
        self._engine.hear(command, waiting)

    def answer_refusal(
        self, *, answers: tuple[int, int] | None, refusal: Refusal, retry_after_ms: int | None = None
    ) -> Answer:
        return self._engine.answer_refusal(answers=answers, refusal=refusal, retry_after_ms=retry_after_ms)

    def statement_key(self, device: DeviceId, /) -> VerifyingKey | None:
        return self._view.statement_key(device)

    def is_complete(self) -> bool:
        return self._view.is_complete

    def site_key(self) -> tuple[str, int] | None:
        newest = self._view.newest_site_key()
        if newest is None:
            return None
        return site_key_label(self._view.site_id, newest.epoch, newest.wrapped_key), newest.epoch


class _ForUplink:
    """The engine as the uplink sees it."""

    __slots__ = ("_engine", "_view")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._view = engine.view

    async def submit(self, command: session.Command, /) -> object:
        return await self._engine.submit(command)

    def position(self) -> session.Position:
        view = self._view
        return session.Position(
            incarnation=view.incarnation,
            start_id=view.start_id,
            position=view.position,
            directive_version=view.directive_version,
            directive_hash=view.directive_hash,
            last_sealed_sequence=view.sealed_sequence,
            suspects_rollback=view.suspects_rollback,
        )

    def receipt_keys(self) -> Sequence[VerifyingKey]:
        found = []
        for each in self._view.receipt_keys:
            try:
                found.append(VerifyingKey.from_spki(each))
            except MessageError as err:
                # What it signs is not believed; the others still count.
                _log.error("receipt_key_unusable", fault=str(err))
        return found

    def receipted_sequence(self) -> int:
        return self._view.receipted_sequence

    async def batches_to_send(self, after_sequence: int, most: int, /) -> Sequence[SignedBatchRow]:
        return await asyncio.to_thread(self._engine.record.batches_to_send, after_sequence, most)

    async def directives(self, after_version: int, most: int, /) -> Sequence[DirectiveApplied]:
        return await asyncio.to_thread(self._engine.record.directives, after_version, most)

    async def directive_links(self) -> Sequence[tuple[int, bytes]]:
        return await asyncio.to_thread(self._engine.record.directive_links)

    def last_receipt(self) -> tuple[bytes, bytes, bytes]:
        return self._view.last_receipt

    async def earlier_incarnations(self) -> Sequence[int]:
        return await asyncio.to_thread(self._engine.record.earlier_incarnations)

    async def earlier_batches(self, incarnation: int, after_sequence: int, most: int, /) -> Sequence[SignedBatchRow]:
        return await asyncio.to_thread(
            self._engine.record.batches_to_send, after_sequence, most, incarnation=incarnation
        )

    async def wait_for_batch(self, after_sequence: int, /) -> None:
        await self._engine.batches.wait_for(after_sequence)

    def outstanding_quota_requests(self) -> Sequence[session.QuotaRequest]:
        return self._engine.outstanding_quota_requests()

    async def wait_for_quota_request(self, after_counter: int, /) -> None:
        await self._engine.wait_for_quota_request(after_counter)

    async def detail(self, incarnation: int, sequence: int, /) -> Sequence[bytes] | None:
        try:
            return await self._engine.detail(sequence, incarnation)
        except JournalError:
            _log.exception("detail_not_rebuilt", incarnation=incarnation, sequence=sequence)
            return None


class _Gateway:
    """Everything that runs, built once and run in one task group."""

    def __init__(self, config: EdgeConfig, party: Party, token: Token, directive_key: VerifyingKey) -> None:
        self._config = config
        self._party = party
        self._token = token
        self._metrics = Metrics()
        self._rubbish = RubbishRing(samples=config.limits.rubbish_samples)
        self._broker_up = False
        self._started_at = datetime.now(UTC)
        limits = config.limits
        clock = config.clock.clock()
        self._engine = Engine(
            journal=Journal(config.journal_file),
            grant_signer=TokenSigner(token=token, label="grant", urgent=False),
            batch_signer=TokenSigner(token=token, label="batch", urgent=True),
            clock=clock,
            settings=core_settings(config, clock),
            sealed_witness=TokenWitness(token) if config.token.witness else None,
            limits=EngineLimits(
                queue=limits.engine_queue,
                group=limits.group,
                parked_for_quota=limits.parked_intents,
                quota_wait_ms=limits.quota_wait_ms,
                retry_after_ms=limits.retry_after_ms,
            ),
            upkeep=upkeep_limits(config),
        )
        self._door = StatementDoor(
            gateway=config.gateway,
            engine=_ForIngress(self._engine),
            token=token,
            grant_key=VerifyingKey.from_spki(party.public_key("grant")),
            limits=limits,
            metrics=self._metrics,
            rubbish=self._rubbish,
        )
        self._uplink = session.Uplink(
            gateway=config.gateway,
            section=config.uplink,
            engine=_ForUplink(self._engine),
            directive_key=directive_key,
            make_credentials=lambda: channel_credentials(
                token, "tls", certificate_chain=party.certificate("tls"), roots=read_roots(config.ca_file)
            ),
            obey_site_key=self._obey_site_key,
            metrics=self._metrics,
        )
        self._engine.proven_sequence = lambda: self._uplink.proven_sequence
        self._handshakes: Handshakes | None = None

    async def run(self) -> None:
        """Run until told to stop; raise ``StartError``."""
        config = self._config
        http = self._http_listener()
        coap = self._coap_ingress()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        failed: ExceptionGroup[Exception] | None = None
        try:
            http.start()
            addresses = {"http": http.address}
            await self._engine.start()
            try:
                async with asyncio.TaskGroup() as tasks:
                    engine = tasks.create_task(self._engine.run(), name="engine")
                    await self._restore_site_keys()
                    if coap is not None:
                        await coap.start()
                        addresses["coap"] = coap.address
                    doors = self._open_doors(tasks, http, coap)
                    # What the start built stays: the collector need not walk it again and again, with everybody waiting. Not once before, either: that is a
                    # twentieth of a start, and the imports' few hundred cycles are all that it finds.
                    gc.freeze()
                    gc.enable()
                    write_run_file(config.run_file, started_at=self._started_at, addresses=addresses)
                    _log.info("started", gateway=config.gateway_id, pid=os.getpid(), **addresses)
                    await stop.wait()
                    _log.info("stopping")
                    loop.call_later(STOP_AT_MOST_S, _stop_hard)
                    # One after the other: who waits in the engine is still answered, or hears nothing and asks again.
                    for door in doors:
                        door.cancel()
                        await asyncio.wait([door])
                    await self._engine.stop()
                    await asyncio.wait([engine])
            except* (JournalError, HsmError, EngineError, HttpListenError, CoapListenError) as group:
                failed = group
            finally:
                # Only who has the journal serves from this folder: a second one, which is refused it, leaves the first one's word alone.
                config.run_file.unlink(missing_ok=True)
            if failed is not None:
                # Not in its handler: Python before 3.11.4, Debian's too, puts what is raised there into a group of its own.
                raise StartError(_cause(failed, self._engine.failure)) from failed
        except HttpListenError as err:
            raise StartError(str(err)) from err
        finally:
            _log.info("stopped")

    def _open_doors(
        self, tasks: asyncio.TaskGroup, http: HttpListener, coap: CoapIngress | None
    ) -> list["asyncio.Task[None]"]:
        doors = []
        if coap is not None:
            doors.append(tasks.create_task(coap.run(), name="coap"))
        if self._config.mqtt is not None:
            doors.append(tasks.create_task(self._mqtt_ingress(self._config.mqtt).run(), name="mqtt"))
            if self._config.mqtt.broker_directory is not None:
                key = self._broker_key(self._config.mqtt, self._config.mqtt.broker_directory)
                doors.append(tasks.create_task(key.run(), name="broker key"))
        doors.append(tasks.create_task(self._uplink.run(), name="uplink"))
        doors.append(tasks.create_task(http.run(), name="http"))
        return doors

    # What stands at the borders ---------------------------------------------------------------------------------------

    def _http_listener(self) -> HttpListener:
        return HttpListener(
            listen=self._config.http.listen, status=self._status, faults=self._faults, metrics=self._page
        )

    def _mqtt_ingress(self, section: MqttSection) -> MqttIngress:
        def make_key() -> TransportKey:
            return client_key(self._token, self._party, GATEWAY_USER, directory=self._config.transport_dir)

        return MqttIngress(
            section=section, door=self._door, metrics=self._metrics, make_key=make_key, on_change=self._broker_changed
        )

    def _broker_key(self, section: MqttSection, directory: Path) -> BrokerKey:
        return BrokerKey(
            token=self._token, party=self._party, listen=section.address, directory=directory, socket=section.socket
        )

    def _coap_ingress(self) -> CoapIngress | None:
        section = self._config.coap
        if section is None:
            return None
        party = self._party
        self._handshakes = Handshakes(
            section=section,
            key=TokenKey(self._token, EDHOC),
            credential=credential(party.id, party.kid, party.public_key(EDHOC)),
            keys_with=self._device_keys,
            metrics=self._metrics,
        )
        return CoapIngress(section=section, door=self._door, handshakes=self._handshakes, metrics=self._metrics)

    def _device_keys(self, kid: bytes) -> Iterable[DeviceKey]:
        """The static keys that directives gave this identifier; at a handshake's end, so a look at each device is cheap."""
        view = self._engine.view
        for name in view.device_ids():
            device = view.device(name)
            if device is not None and device.static_dh_kid == kid and device.status != _DECOMMISSIONED:
                yield DeviceKey(device=device.id, kid=kid, x=device.static_dh_x)

    def _broker_changed(self, connected: bool) -> None:
        self._broker_up = connected

    # Keys of the site -------------------------------------------------------------------------------------------------

    async def _obey_site_key(self, key: directive_pb2.SiteKey) -> None:
        await take_site_key(
            self._token,
            site_id=key.site_id,
            epoch=key.epoch,
            ephemeral_public_key=key.ephemeral_public_key,
            wrapped_key=key.wrapped_key,
        )

    async def _restore_site_keys(self) -> None:
        view = self._engine.view
        for row in view.site_keys():
            try:
                await take_site_key(
                    self._token,
                    site_id=view.site_id,
                    epoch=row.epoch,
                    ephemeral_public_key=row.ephemeral_public_key,
                    wrapped_key=row.wrapped_key,
                )
            except HsmError:
                # Metering and closing need no site key; an intent is answered "later" (1302) until there is one.
                _log.exception("site_key_not_restored", epoch=row.epoch)

    # What people see --------------------------------------------------------------------------------------------------

    def _faults(self) -> list[str]:
        view = self._engine.view
        found = []
        if not self._uplink.online:
            found.append(f"uplink: {self._uplink.fault}")
        if self._config.mqtt is not None and not self._broker_up:
            found.append(f"broker: {self._config.mqtt.place} is not connected")
        if not view.authorizing:
            found.append(f"not authorizing: {view.not_authorizing_reason}")
        found += clock_faults(view.clock)
        if self._engine.storage_full:
            found.append(f"disk: the disk of {self._config.journal_file} is full: free some space")
        found += [f"directive {version}: {fault}" for version, fault in view.directive_faults()]
        return found

    def _status(self) -> dict[str, Any]:
        view, engine, config = self._engine.view, self._engine, self._config
        counts = view.counts()
        return {
            "gateway": config.gateway_id,
            "operator": view.operator_id,
            "site": view.site_id,
            "incarnation": view.incarnation,
            "start_id": view.start_id.hex(),
            "position": view.position,
            "authorizing": view.authorizing,
            "faults": self._faults(),
            "uplink": {"online": self._uplink.online, "address": config.uplink.address, "fault": self._uplink.fault},
            "broker": {
                "connected": self._broker_up,
                "address": None if config.mqtt is None else config.mqtt.place,
            },
            "coap": {"contexts": 0 if self._handshakes is None else len(self._handshakes)},
            "clock": asdict(view.clock),
            "directives": {"version": view.directive_version, "head_at_us": view.head_at_us},
            "batches": {
                "sealed": view.sealed_sequence,
                "receipted": view.receipted_sequence,
                "proven": self._uplink.proven_sequence,
                **self._backlog(view.sealed_sequence - view.receipted_sequence),
            },
            "counts": counts,
            "overdue": [asdict(each) for each in view.overdue(engine.now())[:MAX_OVERDUE_SHOWN]],
            "refusals": {str(number): count for number, count in sorted(self._refusals().items())},
            "journal": self._engine.upkeep.page(),
            "engine": {"groups": engine.groups, "decided": engine.decided, "poisoned": engine.poisoned},
            "rubbish": [asdict(sample) for sample in self._rubbish.samples()],
        }

    def _backlog(self, batches: int) -> dict[str, int | None]:
        size, drains_in_s = self._uplink.measure(batches)
        return {
            "backlog": batches,
            "backlog_bytes": size,
            # None while nothing moves: JSON has no infinity.
            "drains_in_s": None if math.isinf(drains_in_s) else math.ceil(drains_in_s),
        }

    def _refusals(self) -> dict[int, int]:
        found = self._engine.view.refusals()
        for number, count in self._engine.refused_unrecorded.items():
            found[int(number)] = found.get(int(number), 0) + count
        return found

    def _page(self) -> bytes:
        view = self._engine.view
        metrics = self._metrics
        counts = {**view.counts(), "overdue_authorizations": len(view.overdue(self._engine.now()))}
        for name, count in counts.items():
            metrics.state.labels(name).set(count)
        metrics.position.set(view.position)
        metrics.clock(view.clock)
        metrics.journal(self._engine.upkeep.page())
        metrics.sealed.set(view.sealed_sequence)
        metrics.receipted.set(view.receipted_sequence)
        self._uplink.measure(view.sealed_sequence - view.receipted_sequence)
        metrics.directive_version.set(view.directive_version)
        return metrics.page()


def clock_faults(clock: ClockView) -> list[str]:
    """What is wrong with the clock, for people."""
    found = []
    if not clock.trusted:
        behind = f": it is {clock.behind_s} s behind what the cloud has signed" if clock.behind_s else ""
        found.append(f"clock: nobody vouches for it{behind}; prices by date or time of day wait (see the runbook)")
    if clock.doubted_s:
        found.append(
            f"clock: the cloud's last word is {clock.doubted_s} s ahead of a clock that is trusted, and is not believed"
        )
    return found


def _stop_hard() -> None:
    # Nothing is lost by it: what was said is durable, and what was not is asked for again.
    _log.error("stop_took_too_long", seconds=STOP_AT_MOST_S)
    os._exit(1)


def _cause(group: BaseExceptionGroup[BaseException], failure: Exception | None) -> str:
    """What ended the run: an engine that stopped is only what others saw of it, and they may be faster than its own word."""
    leaves = [*([] if failure is None else [failure]), *_leaves(group)]
    return str(next((err for err in leaves if not isinstance(err, EngineError)), leaves[0]))


def _leaves(err: BaseException) -> Iterator[BaseException]:
    if isinstance(err, BaseExceptionGroup):
        for each in err.exceptions:
            yield from _leaves(each)
    else:
        yield err
