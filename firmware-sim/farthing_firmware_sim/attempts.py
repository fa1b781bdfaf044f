"""One intent out of turn: a file asks for it, a file answers. Works beside a running fleet, which alone may use its counters.

``out_dir/attempts/<name>.json`` holds ``{"device", "gateway", "token"}``; ``<name>.answer.json`` then says what became of it.
"""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from farthing.device.messages import SALT_SIZE
from farthing.ids import GatewayId
from farthing.refusal import Refusal
from farthing_firmware_sim.config import token_bytes
from farthing_firmware_sim.device.values import ArrivalTurnedAway, Event, Finished, Plan, Profile, RefusedIntent
from farthing_firmware_sim.record import write_atomically

if TYPE_CHECKING:
    from farthing_firmware_sim.runner import Runner

#: A person or a test asks; more at once is a mistake.
MAX_ATTEMPTS = 64
#: A payer who stands there to see what happens: long enough for a gateway that is restarting (real time).
PATIENCE_US = 20_000_000


class Desk:
    """Takes attempts for the devices of a process."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, dict[str, object]] = {}
        self._watched: set[str] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked or under way."""
        return not self._open and not self._requests()

    def ask(self, name: str, *, device: str, gateway: str, token: str) -> None:
        """Put a request on the desk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._request(name), {"device": device, "gateway": gateway, "token": token})

    def answer(self, name: str) -> dict[str, object] | None:
        """The answer, or None while there is none."""
        try:
            content = json.loads(self._answer(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        assert isinstance(content, dict)
        return content

    def withdraw(self, name: str) -> None:
        """Nobody waits for the answer any more."""
        self._request(name).unlink(missing_ok=True)

    def look(self, runners: Mapping[str, "Runner"]) -> None:
        """Start what was asked and can be started; the rest waits for its device."""
        for file in self._requests()[:MAX_ATTEMPTS]:
            name = file.stem
            if name in self._open:
                continue
            request = json.loads(file.read_text(encoding="utf-8"))
            runner = runners.get(request["device"])
            if runner is None or request["gateway"] not in runner.gateways:
                self._say(name, request, {"answer": "impossible", "refusal": None})
                continue
            if request["device"] not in self._watched:
                self._watched.add(request["device"])
                runner.watch(self._happened)
            one_shot = runner.nameplate.profile is Profile.ONE_SHOT
            plan = Plan(
                token=token_bytes(request["token"]),
                salt=secrets.token_bytes(SALT_SIZE),
                trace_id=secrets.token_bytes(16),
                gateways=(GatewayId(request["gateway"]),),
                target=1,
                rate_per_hour=0,
                stay_us=0,
                patience_real_us=None if one_shot else PATIENCE_US,
                elsewhere_real_us=None,
                wanted=None,
                source=f"attempt {name}",
            )
            if runner.arrive(plan) is None:
                self._open[name] = request

    def _happened(self, event: Event) -> None:
        if isinstance(event, ArrivalTurnedAway):
            # Somebody else was quicker: it is still asked for, and starts at the next look.
            self._open.pop(event.source.removeprefix("attempt "), None)
            return
        if not isinstance(event, Finished | RefusedIntent) or not event.source.startswith("attempt "):
            return
        name = event.source.removeprefix("attempt ")
        request = self._open.pop(name, None)
        if request is None:
            return
        refusal = event.refusal if isinstance(event, RefusedIntent) else None
        cancelled = isinstance(event, Finished) and event.cancelled
        self._say(
            name,
            request,
            {
                "answer": "refused" if refusal is not None else "none" if cancelled else "granted",
                "refusal": None if refusal is None else int(refusal),
                "refusal_name": None if refusal is None else Refusal(refusal).name,
                "authorization": event.authorization.hex(),
                "counter": event.intent_counter,
            },
        )

    def _say(self, name: str, request: Mapping[str, object], content: Mapping[str, object]) -> None:
        write_atomically(self._answer(name), {"device": request["device"], "gateway": request["gateway"], **content})
        self._request(name).unlink(missing_ok=True)

    def _requests(self) -> list[Path]:
        return sorted(each for each in self._folder.glob("*.json") if not each.name.endswith(".answer.json"))

    def _request(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _answer(self, name: str) -> Path:
        return self._folder / f"{name}.answer.json"
