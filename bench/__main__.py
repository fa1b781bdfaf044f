"""``make bench``: every figure beside its floor, measured in the same run, as a table and in out/bench.json; pictures in out/bench/.

A figure is only as good as the machine was quiet; read the ratio, not the value. Name ids to run only those:
``python -m bench E1 C1``.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.pictures import bars

OUT = Path("out/bench.json")

#: id -> (module, function); a function returns one figure or several.
FIGURES = {
    "E1": ("bench.mqtt", "e1"),
    "E2": ("bench.metering", "e2"),
    "E3": ("bench.edge", "e3"),
    "E2-ticks": ("bench.ticks", "e2_ticks"),
    "E4": ("bench.ticks", "e4"),
    "E5": ("bench.sessions", "e5"),
    "E6": ("bench.journal", "e6"),
    "E8": ("bench.journal", "e8"),
    "flood": ("bench.flood", "flood"),
    "C1": ("bench.posting", "c1"),
    "C1-writers": ("bench.posting", "c1_writers"),
    "C1-disk": ("bench.posting", "c1_disk"),
    "C2": ("bench.door", "c2"),
    "E7": ("bench.backlog", "e7"),
    "daemons": ("bench.daemons", "daemons"),
}

#: Only when named: minutes by themselves.
LONG = {"soak": ("bench.sessions", "soak")}

#: Their modules draw what bars cannot show.
DRAWN = frozenset({"E1", "E2", "E5", "E8", "flood", "soak"})
_NUMBER = re.compile(r"[≤≥] ([0-9][0-9,.]*)")

UNBROKEN = ("id", "value", "unit", "floor", "ratio", "budget", "met")


def main(wanted: list[str]) -> int:
    """Run what is wanted (all by default), print the table, write the file."""
    there = {**FIGURES, **LONG}
    unknown = set(wanted) - set(there)
    if unknown:
        print(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(there)}", file=sys.stderr)
        return 2
    rows: list[dict[str, object]] = []
    for name, (module, function) in there.items():
        if name not in (wanted or FIGURES):
            continue
        print(f"measuring {name} ...", file=sys.stderr)
        measured = getattr(importlib.import_module(module), function)()
        measured = measured if isinstance(measured, list) else [measured]
        if name not in DRAWN:
            _draw(name, measured)
        rows += measured
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table(title="each figure beside its floor, same run")
    for column in ("id", "what", "value", "unit", "floor", "what the floor is", "ratio", "budget", "met"):
        table.add_column(
            column, justify="right" if column in ("value", "floor", "ratio") else "left", no_wrap=column in UNBROKEN
        )
    for row in rows:
        table.add_row(
            *(
                _shown(row[key])
                for key in ("id", "what", "value", "unit", "floor", "floor_what", "ratio", "budget", "met")
            )
        )
    # Where output is no terminal nothing is squeezed into 80 columns: a file has no width.
    Console(width=None if sys.stdout.isatty() else 260).print(table)
    return 0


def _draw(name: str, rows: list[dict[str, Any]]) -> None:
    """The figures of ``name`` as bars, each beside its floor; one picture where they share a unit, else one each."""
    units = {row["unit"] for row in rows}
    for number, unit in enumerate(sorted(units), start=1):
        values: dict[str, float] = {}
        budget = None
        for row in rows:
            if row["unit"] != unit:
                continue
            values[str(row["id"])] = row["value"]
            if row["floor"] is not None:
                values[f"floor of {row['id']}"] = row["floor"]
            found = _NUMBER.match(str(row["budget"]))
            # A budget that is a share of the floor has no place on the axis.
            if found is not None and "floor" not in str(row["budget"]):
                budget = float(found[1].replace(",", ""))
        title = f"{name}: {rows[0]['what']}" if len(rows) == 1 else name
        bars(name if len(units) == 1 else f"{name}-{number}", title, values, unit=unit, budget=budget)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.3g}" if isinstance(value, float) else "" if value is None else str(value)


sys.exit(main(sys.argv[1:]))
