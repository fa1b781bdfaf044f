"""The composition root: build everything that ``devices.toml`` names, run it, end it.

Commands reach a run as SIGTERM (stop now), SIGUSR1 or a file ``finish`` in ``out_dir`` (serve nobody new, end what is open, wait
for receipts, exit), and files in ``out_dir/attempts`` (one intent out of turn, see :mod:`farthing_firmware_sim.attempts`).
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NoReturn

import structlog

from farthing.clock import SECOND_US, BusinessClock, Instant
from farthing.device.messages import TariffVersion
from farthing.hsm import Hsm, Token, load_party
from farthing.ids import DeviceId, GatewayId, RegisterId, TariffId
from farthing_firmware_sim.attacks import ANSWER_TIMEOUT_S, Attacker, Observed, kept_up
from farthing_firmware_sim.attempts import Desk
from farthing_firmware_sim.config import Config, Device, Kind, Mode, Pace, ReplayFormat, Transport
from farthing_firmware_sim.device.stored import dump, load
from farthing_firmware_sim.device.values import Nameplate, Profile, RetryPolicy
from farthing_firmware_sim.element import TokenElement, load_grant_key
from farthing_firmware_sim.pace import FileClock
from farthing_firmware_sim.purpose import Purpose
from farthing_firmware_sim.record import write_atomically
from farthing_firmware_sim.runner import TICK_S, Runner, forgotten_network, real_us
from farthing_firmware_sim.store import Store, read_device
from farthing_firmware_sim.traffic.files import FORMATS, Row, read
from farthing_firmware_sim.traffic.replay import Slice, cut
from farthing_firmware_sim.traffic.schedule import Drawn, Household, Load, Payers, Replayed, ReplayedHousehold, lots
from farthing_firmware_sim.transport.air import Air
from farthing_firmware_sim.transport.links import links_of

SESSIONS_FILE = "sessions.jsonl"
STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.json"
FINISH_FILE = "finish"
STATUS_EVERY_S = 0.3
#: How long a clone waits for its original to be between two uses before it is copied in the middle of one (real time).
COPY_PATIENCE_US = 5_000_000


class ElementsApart(ValueError):
    """Devices whose tokens lie in different SoftHSM directories cannot share a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    #: False if ``finish`` ran out of time, or the run was stopped.
    complete: bool
    #: By SIGTERM: open uses go on at the next start.
    stopped: bool
    #: By device, what was still missing then.
    missing: Mapping[str, str]


class _Ended(Exception):
    """The run is over; unwinds the task group."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the run is over")
        self.outcome = outcome


def _outcome_of(ended: ExceptionGroup[_Ended]) -> Outcome:
    first = ended.exceptions[0]
    assert isinstance(first, _Ended)
    return first.outcome


class Fleet:
    """All devices of one process."""

    def __init__(self, config: Config, *, purpose: Purpose = Purpose.SERVE) -> None:
        self._config = config
        self._purpose = purpose
        self._clock: BusinessClock = config.business_clock()
        self._runners: dict[str, Runner] = {}
        self._airs: list[Air] = []
        self._slice: Slice | None = None
        self._format: ReplayFormat | None = None
        self._stop = asyncio.Event()
        self._finish_since_us: int | None = None
        self._began_us = self._clock.now()
        self._log = structlog.get_logger()
        self.desk = Desk(folder=config.out_dir / "attempts")

    def stop(self) -> None:
        """End now, cleanly."""
        self._stop.set()

    def finish(self) -> None:
        """End when all is said."""
        if self._finish_since_us is None:
            self._log.info("finishing")
            self._finish_since_us = real_us()
            for runner in self._runners.values():
                runner.finish()

    async def run(self) -> Outcome:
        """Build, run, end; raises what stops it from starting, each with a message that says what to do."""
        config = self._config
        config.out_dir.mkdir(parents=True, exist_ok=True)
        # A request to finish is for the run it was made in.
        (config.out_dir / FINISH_FILE).unlink(missing_ok=True)
        self._slice = self._read_slice()
        async with AsyncExitStack() as stack:
            store = Store(folder=config.state_dir, sessions_file=config.out_dir / SESSIONS_FILE)
            store_thread = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="store"))
            stack.enter_context(store)
            if config.clone is not None:
                await self._copy_state(store)
            hsm, tokens = self._open_elements()
            stack.callback(hsm.close)
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._build(tasks, stack, store, store_thread, tokens)
                    await self._live(tasks, stack)
            except* _Ended as ended:
                outcome = _outcome_of(ended)
            if self._purpose is not Purpose.ATTEMPT:
                self._write_status()
                self._write_summary(outcome)
            return outcome

    async def _live(self, tasks: asyncio.TaskGroup, stack: AsyncExitStack) -> NoReturn:
        """Run the devices until the run is over, then unwind everything that was started for it."""
        self._listen_to_signals(stack)
        for runner in self._runners.values():
            tasks.create_task(runner.run(), name=runner.nameplate.device)
        outcome = await self._until_over()
        if self._finish_since_us is not None:
            for runner in self._runners.values():
                await runner.record_standing()
        raise _Ended(outcome)

    # Building ---------------------------------------------------------------------------------------------------------

    def _open_elements(self) -> tuple[Hsm, dict[str, Token]]:
        parties = {device.id: load_party(device.party) for device in self._config.devices}
        first = next(iter(parties.values()))
        hsm = Hsm(module_path=first.module_path, softhsm_conf=first.softhsm_conf)
        tokens = {}
        hsm.start()
        try:
            for name, party in parties.items():
                tokens[name] = hsm.attach(party)
        except BaseException:
            hsm.close()
            raise
        return hsm, tokens

    async def _build(
        self,
        tasks: asyncio.TaskGroup,
        stack: AsyncExitStack,
        store: Store,
        store_thread: ThreadPoolExecutor,
        tokens: Mapping[str, Token],
    ) -> None:
        grant_keys = {
            GatewayId(gateway.id): load_grant_key(gateway.grant_key_file) for gateway in self._config.gateways
        }
        for device in self._config.devices:
            token = tokens[device.id]
            payers, household = self._payers_of(device), self._household_of(device)
            at_files_pace = isinstance(payers, Replayed) or isinstance(household, ReplayedHousehold)
            runner = Runner(
                nameplate=nameplate_of(device, self._config),
                clock=FileClock(self._begins_us) if at_files_pace and self._in_turn else self._clock,
                store=store,
                store_thread=store_thread,
                element=TokenElement(token=token, party=token.party),
                grant_keys=grant_keys,
                payers=payers,
                household=household,
            )
            await runner.load(register_value=device.meter.starts_at)
            self._runners[device.id] = runner
            air = Air(network=self._config.network, lot=lots(self._config.seed, device.id)[2], tasks=tasks)
            self._airs.append(air)
            links = await links_of(
                device,
                self._config,
                token.party,
                deliver=runner.deliver,
                connected=runner.connected,
                stack=stack,
            )
            for gateway, link in links.items():
                runner.connect(gateway, link, air)
                tasks.create_task(link.run(), name=f"{device.id} to {gateway}")

    def _payers_of(self, device: Device) -> Payers | None:
        if device.kind is Kind.SMART_METER or self._purpose is Purpose.ATTEMPT:
            return None
        payers_lot, salts_lot, _ = lots(self._config.seed, device.id)
        rows = self._rows_of(device)
        if rows is not None:
            assert self._slice is not None
            return Replayed(
                device=device,
                traffic=self._config.traffic,
                lot=payers_lot,
                token_lot=salts_lot,
                rows=rows,
                begins_us=self._begins_us,
                begins_s=self._slice.begins_s,
                in_turn=self._in_turn,
            )
        return Drawn(
            device=device,
            traffic=self._config.traffic,
            lot=payers_lot,
            token_lot=salts_lot,
            next_us=self._began_us,
            uses_left=device.uses,
        )

    def _household_of(self, device: Device) -> Load | None:
        if device.kind is not Kind.SMART_METER or self._purpose is Purpose.ATTEMPT:
            return None
        rows = self._rows_of(device)
        if rows is not None:
            assert self._slice is not None
            return ReplayedHousehold(
                rows=rows,
                rated_per_hour=device.meter.rated_per_hour,
                begins_us=self._begins_us,
                begins_s=self._slice.begins_s,
            )
        return Household(
            lot=lots(self._config.seed, device.id)[0],
            rated_per_hour=device.meter.rated_per_hour,
            next_us=self._began_us,
        )

    def _rows_of(self, device: Device) -> Sequence[Row] | None:
        """What this device replays; None: it is left to statistics. In a run that only replays, the others do nothing."""
        if self._slice is None:
            return None
        return self._slice.by_device.get(device.id, () if self._purpose is Purpose.REPLAY else None)

    @property
    def _in_turn(self) -> bool:
        return self._config.traffic.pace is Pace.ANSWERS

    @property
    def _begins_us(self) -> Instant:
        """The business instant at which the slice begins."""
        assert self._slice is not None
        return Instant(self._slice.begins_s * SECOND_US) if self._in_turn else self._began_us

    def _read_slice(self) -> Slice | None:
        traffic = self._config.traffic
        if traffic.mode is not Mode.REPLAY or self._purpose is Purpose.ATTEMPT:
            return None
        assert traffic.file is not None
        self._format, items = read(traffic.file, traffic.format)
        kind = FORMATS[self._format].kind
        players = [device for device in self._config.devices if device.kind is kind]
        return cut(
            items,
            devices=[device.id for device in players],
            rated_per_hour={device.id: device.meter.rated_per_hour for device in players},
            seed=self._config.seed,
            window_s=traffic.window_s or None,
            from_s=traffic.from_s,
            to_s=traffic.to_s,
            in_turn=self._in_turn,
        )

    async def _copy_state(self, store: Store) -> None:
        """A clone begins where its original is, between two uses: same counter, same register."""
        assert self._config.clone is not None
        for device in self._config.devices:
            if store.device(device.id) is not None:
                continue
            until_us = real_us() + COPY_PATIENCE_US
            while True:
                stored = read_device(self._config.clone.of_state_dir, device.id)
                state = load(stored.state)
                if (state.use is None and not state.outgoing) or real_us() >= until_us:
                    break
                await asyncio.sleep(TICK_S)
            state = forgotten_network(state)
            store.commit(
                device.id,
                device_epoch=stored.device_epoch,
                next_counter=state.next_counter,
                state=dump(state, device.kind.profile),
            )

    def _listen_to_signals(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number, act in ((signal.SIGTERM, self.stop), (signal.SIGINT, self.stop), (signal.SIGUSR1, self.finish)):
            loop.add_signal_handler(number, act)
            stack.callback(loop.remove_signal_handler, number)

    # Running ----------------------------------------------------------------------------------------------------------

    async def _until_over(self) -> Outcome:
        finish_file = self._config.out_dir / FINISH_FILE
        next_status = 0.0
        while True:
            if self._purpose is not Purpose.ATTEMPT and time.monotonic() >= next_status:
                self._write_status()
                next_status = time.monotonic() + STATUS_EVERY_S
            if self._finish_since_us is None and finish_file.exists():
                self.finish()
            self.desk.look(self._runners)
            if self._stop.is_set():
                return Outcome(complete=False, stopped=True, missing=self._missing())
            if self._finish_since_us is not None:
                missing = self._missing()
                if not missing:
                    return Outcome(complete=True, stopped=False, missing={})
                waited_us = real_us() - self._finish_since_us
                if waited_us > self._config.traffic.finish_timeout_s * SECOND_US:
                    return Outcome(complete=False, stopped=False, missing=missing)
            elif self._purpose is Purpose.ATTEMPT:
                if self.desk.idle and not any(self._busy(each) for each in self._runners.values()):
                    return Outcome(complete=True, stopped=False, missing={})
            elif self._purpose is Purpose.SPEND and self._spent():
                return Outcome(complete=True, stopped=False, missing={})
            elif self._purpose is Purpose.REPLAY and all(each.exhausted for each in self._runners.values()):
                self.finish()
            try:
                async with asyncio.timeout(0.05):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def _spent(self) -> bool:
        return all(
            runner.counts.uses + runner.counts.refused.total() >= (device.uses or 0) and not self._busy(runner)
            for device, runner in zip(self._config.devices, self._runners.values(), strict=True)
        )

    @staticmethod
    def _busy(runner: Runner) -> bool:
        return runner.state.use is not None or bool(runner.state.outgoing)

    def _missing(self) -> dict[str, str]:
        missing = {}
        for name, runner in self._runners.items():
            if not runner.finished:
                state = runner.state
                waiting = [f"{each.kind} {each.counter} to {each.gateway}" for each in state.outgoing]
                kept = [str(each.counter) for each in state.kept if each.refused is None]
                missing[name] = (
                    f"unanswered: {', '.join(waiting) or 'nothing'};"
                    f" no receipt for: {', '.join(kept) or 'nothing'}; open use: {state.use is not None}"
                )
        return missing

    # Telling ----------------------------------------------------------------------------------------------------------

    def _write_status(self) -> None:
        devices = {name: self._device_status(runner) for name, runner in self._runners.items()}
        refused: Counter[str] = Counter()
        for runner in self._runners.values():
            refused.update({str(number): count for number, count in runner.counts.refused.items()})
        air: Counter[str] = Counter()
        for each in self._airs:
            air.update(each.counts)
        runners = list(self._runners.values())
        write_atomically(
            self._config.out_dir / STATUS_FILE,
            {
                "pid": os.getpid(),
                "at_us": self._clock.now(),
                "finishing": self._finish_since_us is not None,
                "uses": sum(each.counts.uses for each in runners),
                "granted": sum(each.counts.granted for each in runners),
                "granted_on_floor": sum(each.counts.granted_on_floor for each in runners),
                "cancelled": sum(each.counts.cancelled for each in runners),
                "refused": dict(sorted(refused.items())),
                "open": sum(each.state.use is not None for each in runners),
                "unanswered": sum(len(each.state.outgoing) for each in runners),
                "kept": sum(len(each.state.kept) for each in runners),
                "network": dict(air),
                "devices": devices,
            },
        )

    def _device_status(self, runner: Runner) -> dict[str, object]:
        state, counts = runner.state, runner.counts
        standing = state.standing
        return {
            "profile": runner.nameplate.profile.value,
            "unit": runner.nameplate.unit,
            "register": state.register_value,
            "next_counter": state.next_counter,
            "uses": counts.uses,
            "delivered": counts.delivered
            if standing is None
            else 0
            if standing.baseline is None
            else (standing.recorded - standing.baseline) % runner.nameplate.modulus,
            "granted": counts.granted,
            "granted_on_floor": counts.granted_on_floor,
            "cancelled": counts.cancelled,
            "refused": {str(number): count for number, count in sorted(counts.refused.items())},
            "statements_refused": {str(number): count for number, count in sorted(counts.statements_refused.items())},
            "ends_closed": counts.ends_closed,
            "distrusted": dict(counts.distrusted),
            "receipted": counts.receipted,
            "sent": counts.sent,
            "not_sent": counts.not_sent,
            "open": state.use is not None,
            "unanswered": len(state.outgoing),
            "kept": len(state.kept),
            "finished": runner.finished,
            "gateways": {
                seen.gateway: {
                    "incarnation": seen.witness.incarnation,
                    "start_id": seen.witness.start_id.hex(),
                    "position": seen.witness.position,
                    "receipted_counter": seen.receipted_counter,
                }
                for seen in state.seen
            },
        }

    def _write_summary(self, outcome: Outcome) -> None:
        replay: dict[str, object] | None = None
        if self._slice is not None:
            reports: Counter[str] = Counter()
            for runner in self._runners.values():
                for source in (runner.payers, runner.household):
                    if isinstance(source, Replayed | ReplayedHousehold):
                        reports.update(source.report())
            skipped: Counter[str] = Counter(self._slice.skipped)
            played = reports.pop("played", 0)
            skipped.update(reports)
            replay = {
                "file": str(self._config.traffic.file),
                "format": None if self._format is None else self._format.value,
                "rows": self._slice.rows_read,
                "played": played,
                "skipped": {reason: count for reason, count in sorted(skipped.items()) if count},
            }
        write_atomically(
            self._config.out_dir / SUMMARY_FILE,
            {
                "complete": outcome.complete,
                "missing": dict(outcome.missing),
                "at_us": self._clock.now(),
                "devices": {name: self._device_status(runner) for name, runner in self._runners.items()},
                "replay": replay,
            },
        )


def nameplate_of(device: Device, config: Config) -> Nameplate:
    """What the core is told about ``device``."""
    standing = device.kind.profile is Profile.STANDING
    tariffs = [TariffVersion(tariff_id=TariffId(each.id), version=each.version) for each in device.tariffs]
    return Nameplate(
        device=DeviceId(device.id),
        device_epoch=device.device_epoch,
        profile=device.kind.profile,
        register_id=RegisterId(device.meter.id),
        register_epoch=device.meter.epoch,
        unit=device.meter.unit,
        modulus=device.meter.modulus,
        rated_per_hour=device.meter.rated_per_hour,
        report_interval_us=device.report_interval_s * SECOND_US,
        stoppable=device.stoppable,
        tariffs=frozenset(tariffs),
        standing_gateway=GatewayId(device.gateways[0]) if standing else None,
        standing_tariff=tariffs[0] if standing else None,
        standing_others=tuple(GatewayId(each) for each in device.gateways[1:]) if standing else (),
        retry=RetryPolicy(
            first_us=config.retry.first_ms * 1_000,
            most_us=config.retry.most_ms * 1_000,
            receipt_us=config.retry.receipt_ms * 1_000,
            carry_us=config.retry.carry_ms * 1_000,
            leave_us=config.retry.leave_ms * 1_000,
        ),
        unit_per_tick=device.kind.unit_per_tick,
    )


async def attack_with(config: Config, *, device: Device, gateway: str) -> list[Observed]:
    """Run the catalogue of attacks as ``device`` against ``gateway``; the device must not be running elsewhere."""
    clock = config.business_clock()
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(folder=config.state_dir, sessions_file=config.out_dir / SESSIONS_FILE))
        party = load_party(device.party)
        hsm = stack.enter_context(Hsm(module_path=party.module_path, softhsm_conf=party.softhsm_conf))
        token = hsm.attach(party)
        attacker = Attacker(
            device=device,
            nameplate=nameplate_of(device, config),
            gateway=GatewayId(gateway),
            element=TokenElement(token=token, party=party),
            store=store,
            now=clock.now,
        )
        up = asyncio.Event()
        links = await links_of(
            device,
            config,
            party,
            deliver=lambda _, data: attacker.deliver(data),
            connected=lambda _: up.set(),
            stack=stack,
        )
        link = links[GatewayId(gateway)]
        attacker.use(link)
        await stack.enter_async_context(kept_up(link))
        if device.transport is Transport.MQTT:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await up.wait()
        return await attacker.run()
