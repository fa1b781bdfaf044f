"""What a run writes for whoever watches: lines of ``sessions.jsonl``, ``status.json``, ``summary.json``.

``sessions.jsonl`` has one line for each finished use (``kind`` "use"), each cancelled intent ("cancelled"), each refused
intent ("refused"), and at the end one for each standing device ("standing"). Times are business µs since 1970.
"""

import json
import os
from pathlib import Path

from farthing.ids import format_receipt_code, receipt_code
from farthing_firmware_sim.device.values import Finished, Nameplate, RefusedIntent, State
from farthing_firmware_sim.store import Row


def use_row(event: Finished) -> Row:
    """A finished or cancelled use. ``from``/``to``: the register interval; delivered by the device's own count."""
    return Row(
        id=f"{event.device}/{event.device_epoch}/{event.intent_counter}",
        body={
            "kind": "cancelled" if event.cancelled else "use",
            "device": event.device,
            "device_epoch": event.device_epoch,
            "intent_counter": event.intent_counter,
            "last_counter": event.last_counter,
            "gateway": event.gateway,
            "authorization": event.authorization.hex(),
            # What a real device would show its payer.
            "receipt_code": format_receipt_code(receipt_code(event.commitment)),
            "register": event.register_id,
            "register_epoch": event.register_epoch,
            "unit": event.unit,
            "from": event.start,
            "to": event.end,
            "tariff": None if event.tariff is None else event.tariff.tariff_id,
            "tariff_version": None if event.tariff is None else event.tariff.version,
            "started_at_us": event.intent_at_us,
            "granted_at_us": event.granted_at_us,
            "ended_at_us": event.ended_at_us,
            "floor": event.floor,
            "overrun": event.overrun,
            "refusal": None,
            "source": event.source,
        },
    )


def refused_row(event: RefusedIntent) -> Row:
    """A no to an intent, by number."""
    return Row(
        id=f"{event.device}/{event.device_epoch}/{event.intent_counter}",
        body={
            "kind": "refused",
            "device": event.device,
            "device_epoch": event.device_epoch,
            "intent_counter": event.intent_counter,
            "last_counter": event.intent_counter,
            "gateway": event.gateway,
            "authorization": event.authorization.hex(),
            "register": event.register_id,
            "register_epoch": event.register_epoch,
            "unit": event.unit,
            "from": event.start,
            "to": event.start,
            "tariff": None,
            "tariff_version": None,
            "started_at_us": event.intent_at_us,
            "granted_at_us": None,
            "ended_at_us": event.refused_at_us,
            "floor": False,
            "overrun": 0,
            "refusal": int(event.refusal),
            "source": event.source,
        },
    )


def standing_row(nameplate: Nameplate, state: State) -> Row | None:
    """What a standing device delivered: from the first recorded reading to the last. None before the first."""
    standing = state.standing
    if standing is None or standing.baseline is None:
        return None
    assert nameplate.standing_tariff is not None
    return Row(
        id=f"{nameplate.device}/{nameplate.device_epoch}/standing/{standing.recorded_counter}",
        body={
            "kind": "standing",
            "device": nameplate.device,
            "device_epoch": nameplate.device_epoch,
            "intent_counter": None,
            "last_counter": standing.recorded_counter,
            "gateway": nameplate.standing_gateway,
            "authorization": None,
            "register": nameplate.register_id,
            "register_epoch": nameplate.register_epoch,
            "unit": nameplate.unit,
            "from": standing.baseline,
            "to": standing.recorded,
            "tariff": nameplate.standing_tariff.tariff_id,
            "tariff_version": nameplate.standing_tariff.version,
            "started_at_us": standing.baseline_at_us,
            "granted_at_us": standing.baseline_at_us,
            "ended_at_us": standing.recorded_at_us,
            "floor": False,
            "overrun": 0,
            "refusal": None if standing.refused is None else int(standing.refused),
            "source": "standing",
        },
    )


def write_atomically(file: Path, content: object) -> None:
    """Replace ``file`` by ``content`` as JSON: a reader sees the old or the new, never half."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)
