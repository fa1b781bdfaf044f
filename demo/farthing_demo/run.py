"""The run, act by act: set the stage, play the day, cut the wires, kill a gateway, end the day, prove it."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from farthing_demo import cast, proof, scene
from farthing_demo.back_office import Books
from farthing_demo.paperwork import Clerk, Paperwork, with_receipt
from farthing_demo.processes import DemoError, Stage, Started, command, free_port, read_json, until
from farthing_demo.relay import Relay, Wire
from farthing_demo.report import Findings, write_report
from farthing_demo.settings import DAY_BEGINS_US, Settings
from farthing_demo.story import Cut, GatewaySample, Happening, Sample, Story
from farthing_demo.view import View

#: How often everything is looked at, seconds.
SAMPLE_EVERY_S = 0.5
#: Parts of the traffic's time at which things happen.
CUT_FROM, SWALLOW_FROM, CUT_TO = 1 / 3, 1 / 2, 2 / 3
CLONE_AT, KILL_AT = 0.40, 0.55
#: Passages the clone attempts.
CLONE_USES = 3
#: The gateway that is killed, and the one the clone spends at.
KILLED, CLONE_GATEWAY = "gw-1", "gw-2"
#: Between two recalls: a gateway has stopped, sealed and reported by then.
RECALL_EVERY_S = 4.0
#: Waits: generous, for a loaded machine; each ends as soon as its condition holds.
START_WITHIN_S, END_WITHIN_S = 90, 180


@dataclass(slots=True, kw_only=True)
class Site:
    """One site's running parts."""

    part: cast.SitePart
    relay: Relay
    reached: scene.Reached
    http: str
    gateway: Started
    last: GatewaySample


class Run:
    """One run of the demo; :meth:`play` does everything."""

    #: What the file says was used, in the devices' units; only where all of it is played.
    _file_quantity: int | None = None

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._town = cast.DAY
        self._story = Story()
        self._view = View(seconds=settings.seconds, currency=cast.CURRENCY)
        database = Path(tempfile.mkdtemp(prefix="farthing-demo-", dir="/tmp"))
        # As root the embedded PostgreSQL runs as a user of its own, who must get in.
        database.chmod(0o755)
        self._folders = scene.Folders(out=settings.out, database=database / "postgresql")
        self._stage = Stage(folder=settings.out)
        self._began = time.monotonic()
        self._traffic_began = 0.0
        self._real_epoch_us = 0
        self._sites: dict[str, Site] = {}
        self._books: Books | None = None
        self._admin: tuple[str, ...] = ()
        self._kills = 0
        self._posted_micros = 0
        self._recall_after = 0.0
        #: As they were when all were closed.
        self._quotas: list[dict[str, Any]] = []

    async def play(self) -> bool:
        """Play the run; return whether every check holds. SIGTERM and SIGHUP end it in order, like Ctrl-C."""
        this = asyncio.current_task()
        assert this is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
        try:
            await self._set_the_stage()
            await self._play_the_day()
            await self._end_the_day()
            return await self._prove()
        finally:
            self._view.end()
            if self._books is not None:
                await self._books.close()
            await self._stage.stop()
            for site in self._sites.values():
                await site.relay.stop()
            if self._folders.parties.exists():
                await self._stage.call("destroy", [command("farthing-hsm-sim"), "destroy", str(self._folders.parties)])
            shutil.rmtree(self._folders.database.parent, ignore_errors=True)

    # --- before ---------------------------------------------------------------------------------------------------------

    async def _set_the_stage(self) -> None:
        folders, say = self._folders, self._view.say
        if shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            raise DemoError("mosquitto is not installed: run ./setup.sh, or apt-get install mosquitto")
        if folders.parties.exists():
            # A run that was killed left its tokens on the tmpfs.
            await self._stage.call("destroy", [command("farthing-hsm-sim"), "destroy", str(folders.parties)])
        shutil.rmtree(folders.out, ignore_errors=True)
        folders.config("x").parent.mkdir(parents=True)

        await self._choose_the_town()
        say("ceremony: tokens, keys born inside, certificates")
        await self._stage.call("ceremony", self._ceremony())

        # The business day begins when traffic is likely to: set-up passes before it.
        self._real_epoch_us = time.time_ns() // 1_000
        say("cloud: PostgreSQL, ledger, registry, vault, settlement, fraud")
        folders.config("cloud").write_text(scene.cloud_toml(folders, self._settings, self._real_epoch_us))
        cloud = await self._start_daemon(
            "cloud", [command("farthing-cloud"), "serve", "--config", str(folders.config("cloud"))]
        )
        folders.config("admin").write_text(scene.admin_toml(folders, cloud["back_office"]))
        self._admin = (command("farthing-admin"), "--config", str(folders.config("admin")))

        say("sites: brokers, gateways, and the wires that will be cut")
        host, _, port = cloud["door"].rpartition(":")
        await asyncio.gather(*(self._open_site(part, (host, int(port))) for part in cast.SITES))

        say("back office: one file applied, and applied again")
        folders.config("apply").write_text(scene.apply_toml(folders, self._town))
        apply = [*self._admin, "apply", str(folders.config("apply"))]
        await self._stage.call("apply", [*apply, "--dry-run"])
        await self._stage.call("apply", apply, within_s=120)
        again = await self._stage.call("apply", [*apply, "--dry-run", "--json"], within_s=120)
        changed = [row for row in json.loads(again) if row.get("change") != "none"]
        if changed:
            raise DemoError(f"applying the same file again would change something: {changed[:3]}")

        self._books = Books(
            party_folder=folders.party(cast.PERSON),
            ca_file=folders.ca_file,
            address=cloud["back_office"],
            operator=cast.OPERATOR,
        )
        self._books.open()
        await until(
            self._gateways_know_everything, what="the gateways to learn devices and tariffs", within_s=START_WITHIN_S
        )

    async def _choose_the_town(self) -> None:
        """A file of machines' sales needs machines."""
        if self._settings.replay is not None and (await self._stations())["kind"] == "vending":
            self._town = cast.with_vending()

    async def _stations(self) -> dict[str, Any]:
        """What ``farthing-firmware-sim stations`` says of the file: format, kind, rows, stations."""
        bounds = self._settings.file_bounds
        told: dict[str, Any] = json.loads(
            await self._stage.call(
                "stations",
                [command("farthing-firmware-sim"), "stations", str(self._settings.replay), *bounds, "--json"],
            )
        )
        return told

    def _ceremony(self) -> list[str]:
        arguments = [command("farthing-hsm-sim"), "ceremony", "--out", str(self._folders.parties)]
        for part in cast.SITES:
            arguments += ["--gateway", part.gateway]
        for device in self._town.devices:
            arguments += ["--device", device.device]
        return [*arguments, "--person", cast.PERSON]

    async def _start_daemon(self, name: str, arguments: list[str]) -> dict[str, str]:
        started = await self._stage.start(name, arguments)
        return await self._stage.ready(started, self._folders.state(name) / "run.json", within_s=START_WITHIN_S)

    async def _open_site(self, part: cast.SitePart, door: tuple[str, int]) -> None:
        folders, gateway = self._folders, part.gateway
        relay = Relay(target=door)
        await relay.start()
        broker, coap = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        config = folders.config(gateway)
        config.write_text(
            scene.edge_toml(
                folders,
                self._settings,
                self._real_epoch_us,
                gateway=gateway,
                uplink=f"localhost:{relay.port}",
                broker=broker,
                coap=coap,
            )
        )
        edge = command("farthing-edge")
        written = json.loads(
            await self._stage.call(
                f"broker of {part.site}",
                [edge, "broker", "--config", str(config), "--listen", broker, "--directory", str(folders.state(f"broker-{gateway}")), "--json"],
            )
        )  # fmt: skip
        await self._stage.start(f"broker-{gateway}", written["command"])
        await until(lambda: _listens(broker), what=f"the broker of {part.site}", within_s=START_WITHIN_S)
        started = await self._stage.start(gateway, [edge, "run", "--config", str(config)])
        addresses = await self._stage.ready(started, folders.state(gateway) / "run.json", within_s=START_WITHIN_S)
        self._sites[gateway] = Site(
            part=part,
            relay=relay,
            reached=scene.Reached(mqtt=broker, coap=addresses["coap"], ca_file=Path(written["ca_file"])),
            http=addresses["http"],
            gateway=started,
            last=_nothing_seen(gateway),
        )

    async def _gateways_know_everything(self) -> bool:
        tokens = sum(len(account.tokens) for account in self._town.accounts)
        for site in self._sites.values():
            page = await self._status(site)
            expected = sum(1 for device in self._town.devices if site.part.site in device.sites)
            if page is None or page["counts"]["devices"] < expected or page["counts"]["tokens"] < tokens:
                return False
        return True

    # --- the day ----------------------------------------------------------------------------------------------------------

    async def _play_the_day(self) -> None:
        seconds = self._settings.seconds
        keys = await self._issue_mqtt_keys()
        reached = {gateway: site.reached for gateway, site in self._sites.items()}
        self._folders.config("devices").write_text(
            scene.devices_toml(self._folders, self._town, self._settings, self._real_epoch_us, reached, keys)
        )
        self._folders.config("clone").write_text(
            scene.clone_toml(
                self._folders,
                self._town,
                self._settings,
                self._real_epoch_us,
                reached,
                at_gateway=CLONE_GATEWAY,
                uses=CLONE_USES,
            )
        )
        self._view.say(f"traffic: {len(self._town.devices)} devices, {seconds} s, a business day of 15 hours")
        await self._stage.start(
            "devices", [command("farthing-firmware-sim"), "run", "--config", str(self._folders.config("devices"))]
        )
        devices_status = self._folders.out / "devices" / "status.json"
        await until(
            lambda: read_json(devices_status) is not None,
            what=f"the devices to start ({self._stage.started[-1].log})",
            within_s=START_WITHIN_S,
        )
        self._traffic_began = time.monotonic()
        self._view.begin()
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(self._cut(), self._send_the_clone(), self._kill_and_restart())
            await self._at(1.0)
            self._check_alive()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        self._view.end()

    async def _issue_mqtt_keys(self) -> scene.MqttKeys:
        async def issue(gateway: str, devices: list[str]) -> dict[tuple[str, str], scene.MqttKey]:
            folder = self._folders.state(f"mqtt-{gateway}")
            named = [part for device in devices for part in ("--device", device)]
            printed = await self._stage.call(
                f"certificates at {gateway}",
                [command("farthing-edge"), "client-certificate", "--config", str(self._folders.config(gateway)),
                 *named, "--directory", str(folder), "--json"],
            )  # fmt: skip
            written = json.loads(printed)
            if len(devices) == 1:
                written = {devices[0]: written}
            return {
                (device, gateway): scene.MqttKey(
                    certificate_file=Path(files["certificate_file"]), key_file=Path(files["key_file"])
                )
                for device, files in written.items()
            }

        wanted = {
            gateway: [
                device.device
                for device in self._town.devices
                if device.kind in cast.MQTT_KINDS and site.part.site in device.sites
            ]
            for gateway, site in self._sites.items()
        }
        issued = await asyncio.gather(*(issue(gateway, devices) for gateway, devices in wanted.items() if devices))
        return {where: key for keys in issued for where, key in keys.items()}

    def _now_s(self) -> float:
        return time.monotonic() - self._traffic_began

    async def _at(self, part: float) -> None:
        """Return at this part of the traffic's time: the one thing that is set by the clock, because it is the script."""
        await asyncio.sleep(max(0.0, part * self._settings.seconds - self._now_s()))

    def _happens(self, what: str) -> None:
        self._story.happenings.append(Happening(at_s=self._now_s(), what=what))
        self._view.say(what)

    async def _cut(self) -> None:
        for part, kind, wire, what in (
            (CUT_FROM, "refusing", Wire.REFUSING, "both uplinks cut: connections refused"),
            (SWALLOW_FROM, "swallowing", Wire.SWALLOWING, "both uplinks swallow: nothing comes through"),
        ):
            await self._at(part)
            for site in self._sites.values():
                await site.relay.set_wire(wire)
            self._happens(what)
            ends = SWALLOW_FROM if kind == "refusing" else CUT_TO
            self._story.cuts.append(
                Cut(kind=kind, from_s=part * self._settings.seconds, to_s=ends * self._settings.seconds)
            )
        await self._at(CUT_TO)
        for site in self._sites.values():
            await site.relay.set_wire(Wire.PASSING)
        self._happens("both uplinks are back")

    async def _send_the_clone(self) -> None:
        await self._at(CLONE_AT)
        original = self._folders.device_party(cast.CLONED)
        copy = self._folders.clone_party(cast.CLONED)
        await self._stage.call(
            "clone", [command("farthing-hsm-sim"), "clone", "--device", str(original), "--out", str(copy)]
        )
        self._happens(f"a copy of {cast.CLONED} begins to spend at {CLONE_GATEWAY}")
        await self._stage.start(
            "clone", [command("farthing-firmware-sim"), "clone-attack", "--config", str(self._folders.config("clone"))]
        )

    async def _kill_and_restart(self) -> None:
        await self._at(KILL_AT)
        site = self._sites[KILLED]
        self._check_alive()
        await site.gateway.kill()
        self._kills += 1
        self._happens(f"kill -9 of {KILLED}")
        config = self._folders.config(KILLED)
        site.gateway = await self._stage.start(KILLED, [command("farthing-edge"), "run", "--config", str(config)])
        addresses = await self._stage.ready(
            site.gateway, self._folders.state(KILLED) / "run.json", within_s=START_WITHIN_S
        )
        site.http = addresses["http"]
        self._happens(f"{KILLED} is back: journal replayed")

    def _check_alive(self) -> None:
        """A daemon that ended by itself is a fault, whatever else holds."""
        for started in (site.gateway for site in self._sites.values()):
            if not started.running():
                raise DemoError(
                    f"{started.name} ended by itself with {started.process.returncode}: see {started.log}\n{started.tail()}"
                )

    # --- looking --------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            self._story.samples.append(await self._look())
            self._view.show(self._story.samples[-1], self._story)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _look(self) -> Sample:
        assert self._books is not None
        gateways = await asyncio.gather(*(self._look_at(site) for site in self._sites.values()))
        sums = await self._books.sums()
        if sums is not None:
            self._posted_micros = sums.claimed_micros
        devices = read_json(self._folders.out / "devices" / "status.json") or {}
        return Sample(
            at_s=self._now_s(),
            gateways=tuple(gateways),
            posted_micros=self._posted_micros,
            sessions=devices.get("uses", 0),
            devices=len(self._town.devices),
            open_sessions=devices.get("open", 0),
        )

    async def _look_at(self, site: Site) -> GatewaySample:
        page = await self._status(site)
        site.last = _sample(page, site.part.gateway) if page is not None else _gone(site.last, site.gateway.running())
        return site.last

    async def _status(self, site: Site) -> dict[str, Any] | None:
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://{site.http}/status", timeout=2.0)
                answer.raise_for_status()
                page: dict[str, Any] = answer.json()
        except httpx.HTTPError:
            return None
        return page

    # --- the end --------------------------------------------------------------------------------------------------------

    async def _end_the_day(self) -> None:
        say = self._view.say
        for name in ("clone", "devices"):
            say(f"ending: {name}")
            process = next(started for started in self._stage.started if started.name == name)
            if name == "devices":
                (self._folders.out / "devices" / "finish").touch()
            await until(lambda p=process: not p.running(), what=f"{name} to end ({process.log})", within_s=END_WITHIN_S)
            if process.process.returncode:
                raise DemoError(f"{name} exited {process.process.returncode}: see {process.log}\n{process.tail()}")
        await self._drain()
        say("fraud: two statements of one key with one counter")
        await until(self._clone_caught, what="the clone's case to be acted on", within_s=END_WITHIN_S, every_s=0.5)
        await self._close_quotas()

    async def _drain(self) -> None:
        self._view.say("draining: batches receipted, detail proven")
        await self._until_drained()

    async def _close_quotas(self) -> None:
        self._view.say("quotas: recalled, stopped, closed")
        await until(self._quotas_closed, what="all quotas to close", within_s=END_WITHIN_S, every_s=0.3)
        await self._until_drained()

    async def _until_drained(self) -> None:
        """Return when all is receipted and proven, however long that takes; raise ``DemoError`` when nothing moves any more."""
        left, moved_at = None, time.monotonic()
        while True:
            samples = [await self._look_at(site) for site in self._sites.values()]
            left, before = [(g.alive, g.backlog, g.sealed - g.receipted, g.sealed - g.proven) for g in samples], left
            if all(each == (True, 0, 0, 0) for each in left):
                return
            if left != before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > END_WITHIN_S:
                said = "; ".join(
                    f"{g.gateway} {'up' if g.alive else 'down'}, {g.backlog} records not receipted, {g.receipted} of {g.sealed} batches "
                    f"receipted, {g.proven} proven"
                    for g in samples
                )
                raise DemoError(f"nothing moved for {END_WITHIN_S} s and the backlog has not drained: {said}")
            await asyncio.sleep(0.2)

    async def _clone_caught(self) -> bool:
        cases = await self._call_admin("fraud", "cases", "list", "--operator", cast.OPERATOR)
        return any(row["device_id"] == cast.CLONED and row["status"] == "acted" for row in cases)

    async def _quotas_closed(self) -> bool:
        """Recall what is open, again after a while (a grant may have been under way), and look whether anything is left."""
        assert self._books is not None
        if time.monotonic() >= self._recall_after:
            await self._call_admin("quotas", "recall", "--operator", cast.OPERATOR, "--reason", "end of day")
            self._recall_after = time.monotonic() + RECALL_EVERY_S
        sums = await self._books.sums()
        if sums is None or sums.open_quotas:
            return False
        # As they stand now: an account that is short is asked for again as long as its gateway remembers what was spent, and may be granted
        # what came free, while the papers are made.
        self._quotas = await self._call_admin("quotas", "list", "--operator", cast.OPERATOR)
        return all(row["status"] == "closed" for row in self._quotas)

    async def _call_admin(self, *arguments: str) -> Any:
        return json.loads(await self._stage.call("farthing-admin", [*self._admin, *arguments, "--json"]))

    # --- the proof ------------------------------------------------------------------------------------------------------

    async def _prove(self) -> bool:
        operator = ("--operator", cast.OPERATOR)
        refused_at = await self._attempts_after_the_case()
        claims = proof.claimed(await self._call_admin("ledger", "claims", *operator))
        before_closing = await self._call_admin("ledger", "reconcile", *operator)
        closing = await self._call_admin("settlement", "close", *operator)
        plan = await self._call_admin("settlement", "plan", *operator)
        shown = await self._call_admin("settlement", "show", plan[0]["plan_id"])
        if shown != plan:
            raise DemoError(f"the plan that is shown is not the plan that was made: {plan[0]['plan_id']}")
        device_rows = proof.read_rows(self._folders.out / "devices" / "sessions.jsonl")
        paperwork = await self._paperwork(device_rows) if self._file_quantity is None else None
        findings = Findings(
            settings=self._settings,
            town=self._town,
            file_quantity=self._file_quantity,
            story=self._story,
            tariffs=proof.read_tariffs(
                {name: self._folders.out / "config" / f"tariff-{name}.json" for name in cast.TARIFFS}
            ),
            device_rows=device_rows,
            clone_rows=proof.read_rows(self._folders.out / "clone" / "sessions.jsonl"),
            summary=read_json(self._folders.out / "devices" / "summary.json") or {},
            claims=claims,
            accounts=await self._call_admin("accounts", "list", *operator),
            quotas=self._quotas,
            cases=await self._call_admin("ledger", "cases", *operator),
            fraud_cases=await self._call_admin("fraud", "cases", "list", *operator),
            paperwork=paperwork,
            before_closing=before_closing,
            after_closing=await self._call_admin("ledger", "reconcile", *operator),
            closing=closing,
            plan=plan[0],
            verified=await self._call_admin("ledger", "verify"),
            balances=await self._call_admin("ledger", "balance", *operator),
            journals={
                gateway: json.loads(
                    await self._stage.call(
                        f"journal of {gateway}",
                        [
                            command("farthing-edge"),
                            "journal",
                            "verify",
                            "--config",
                            str(self._folders.config(gateway)),
                            "--json",
                        ],
                    )
                )
                for gateway in self._sites
            },
            statuses={gateway: await self._status(site) or {} for gateway, site in self._sites.items()},
            refused_at=refused_at,
            kills=self._kills,
            seconds=time.monotonic() - self._began,
        )
        return write_report(findings, self._view.console)

    async def _paperwork(self, device_rows: Sequence[Mapping[str, Any]]) -> Paperwork:
        """Invoices for everybody; one of them and one receipt as pages."""
        assert self._books is not None
        clerk, operator, out = Clerk(self._books.channel), ("--operator", cast.OPERATOR), self._folders.out
        row = with_receipt(device_rows)
        # Now, by the business clock that everything here runs on.
        passed_us = (time.time_ns() // 1_000 - self._real_epoch_us) * self._settings.rate
        until_us = DAY_BEGINS_US + passed_us
        invoices, invoiced_micros = await clerk.invoice_everyone(
            [account.account for account in self._town.accounts], until_us=until_us
        )
        await until(
            lambda: clerk.finds(row["receipt_code"]), what="the receipt's code to be known", within_s=END_WITHIN_S
        )
        receipt, invoice, verified = await asyncio.gather(
            self._call_admin("documents", "receipt", "--code", row["receipt_code"], "--html", str(out / "receipt.html"), *operator),
            self._call_admin("documents", "show", invoices[cast.INVOICED], "--html", str(out / "invoice.html"), *operator),
            clerk.verify(),
        )  # fmt: skip
        self._view.say(
            f"receipt {receipt['receipt_id']}: {receipt['totals']['exact_gross_amount']} {cast.CURRENCY} for "
            f"{receipt['use']['quantity']} {receipt['use']['unit']} at {receipt['use']['device_id']}, by code {row['receipt_code']}"
        )
        self._view.say(
            f"invoice {invoice['number']} of {cast.INVOICED}: {invoice['totals']['gross_amount']} {cast.CURRENCY} with "
            f"{invoice['totals']['vat_amount']} VAT, exactly {invoice['totals']['exact_gross_amount']}"
        )
        return Paperwork(
            invoices=invoices, invoiced_micros=invoiced_micros, verified=verified, receipt=receipt, invoice=invoice
        )

    async def _attempts_after_the_case(self) -> dict[str, int | None]:
        """Ask for the cloned device at every gateway; return the refusal numbers."""
        numbers: dict[str, int | None] = {}
        for gateway in self._sites:
            printed = await self._stage.call(
                "attempt",
                [command("farthing-firmware-sim"), "attempt", "--config", str(self._folders.config("devices")),
                 "--device", cast.CLONED, "--gateway", gateway],
            )  # fmt: skip
            numbers[gateway] = json.loads(printed.splitlines()[-1]).get("refusal")
            self._view.say(f"{cast.CLONED} at {gateway}: refused with {numbers[gateway]}")
        return numbers


def _listens(address: str) -> bool:
    import socket

    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _nothing_seen(gateway: str) -> GatewaySample:
    return GatewaySample(
        gateway=gateway,
        online=False,
        alive=False,
        granted_online=0,
        granted_offline=0,
        refused=0,
        records=0,
        backlog=0,
        sealed=0,
        receipted=0,
        proven=0,
        open_authorizations=0,
    )


def _gone(last: GatewaySample, running: bool) -> GatewaySample:
    return replace(last, online=False, alive=running)


def _sample(page: dict[str, Any], gateway: str) -> GatewaySample:
    """A gateway's status page as one look."""
    counts, batches = page["counts"], page["batches"]
    return GatewaySample(
        gateway=gateway,
        online=page["uplink"]["online"],
        alive=True,
        granted_online=counts["granted_online"],
        granted_offline=counts["granted_offline"],
        refused=counts["refused"],
        records=counts["records"],
        backlog=counts["unreceipted_records"],
        sealed=batches["sealed"],
        receipted=batches["receipted"],
        proven=batches["proven"],
        open_authorizations=counts["open_authorizations"],
    )
