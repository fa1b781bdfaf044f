"""All of a real file, through two gateways to the ledger: one device for each of its stations, as fast as the gateways answer.

Rule 1: every row of the file is played, or named with its reason. Rule 2: what the file says was used, what the devices counted, what the
gateways' journals billed and what the ledger claims are one sum.
"""

import asyncio
import time

from farthing_demo import cast, scene
from farthing_demo.processes import DemoError, command, read_json, until
from farthing_demo.run import START_WITHIN_S, Run

#: A file of 32,711 sessions is played in some minutes; this ends a run that hangs.
PLAY_WITHIN_S = 3_600


class WholeFile(Run):
    """One run of a whole file."""

    async def _choose_the_town(self) -> None:
        stations = await self._stations()
        if not stations["stations"]:
            between = " ".join(self._settings.file_bounds)
            raise DemoError(
                f"{self._settings.replay} has no session{f' in {between}' if between else ''}: nothing to play"
            )
        self._file_quantity = sum(each["quantity"] for each in stations["stations"].values())
        self._town = cast.of_file(stations["kind"], stations["stations"])
        self._view.say(f"file: {stations['rows']} rows ({stations['format']}), {len(self._town.devices)} stations")

    async def _play_the_day(self) -> None:
        config = self._folders.config("devices")
        reached = {gateway: site.reached for gateway, site in self._sites.items()}
        keys = await self._issue_mqtt_keys()
        config.write_text(
            scene.devices_toml(self._folders, self._town, self._settings, self._real_epoch_us, reached, keys)
        )
        arguments = [
            "replay",
            "--config",
            str(config),
            "--file",
            str(self._settings.replay),
            "--pace",
            "answers",
            "--json",
            *self._settings.file_bounds,
        ]
        self._view.say("playing: each device's clock runs through the file, and stands while a gateway is waited for")
        devices = await self._stage.start("devices", [command("farthing-firmware-sim"), *arguments])
        await until(
            lambda: read_json(self._folders.out / "devices" / "status.json") is not None or not devices.running(),
            what=f"the devices to start ({devices.log})",
            within_s=START_WITHIN_S,
        )
        self._traffic_began = time.monotonic()
        self._view.begin()
        watching = asyncio.create_task(self._watch())
        try:
            await until(
                lambda: not devices.running(),
                what=f"the file to be played ({devices.log})",
                within_s=PLAY_WITHIN_S,
                every_s=0.5,
            )
            self._check_alive()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        self._view.end()
        if devices.process.returncode:
            raise DemoError(f"devices exited {devices.process.returncode}: see {devices.log}\n{devices.tail()}")

    async def _end_the_day(self) -> None:
        await self._drain()
        await self._close_quotas()

    async def _attempts_after_the_case(self) -> dict[str, int | None]:
        return {}
