"""``make bench``: every figure beside its floor, measured in the same run, as a table and in out/bench.json.

A figure is only as good as the machine was quiet; read the ratio, not the value. Name ids to run only those:
``python -m bench E1 C1``.
"""

import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUT = Path("out/bench.json")

#: id -> (module, function); a function returns one figure or several.
FIGURES = {
    "E1": ("bench.mqtt", "e1"),
    "E3": ("bench.edge", "e3"),
    "E4": ("bench.ticks", "e4"),
    "C1": ("bench.ledger", "c1"),
    "C2": ("bench.ledger", "c2"),
    "daemons": ("bench.daemons", "daemons"),
}

UNBROKEN = ("id", "value", "unit", "floor", "ratio", "budget", "met")


def main(wanted: list[str]) -> int:
    """Run what is wanted (all by default), print the table, write the file."""
    unknown = set(wanted) - set(FIGURES)
    if unknown:
        print(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    rows: list[dict[str, object]] = []
    for name, (module, function) in FIGURES.items():
        if wanted and name not in wanted:
            continue
        print(f"measuring {name} ...", file=sys.stderr)
        measured = getattr(importlib.import_module(module), function)()
        rows += measured if isinstance(measured, list) else [measured]
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


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.3g}" if isinstance(value, float) else "" if value is None else str(value)


sys.exit(main(sys.argv[1:]))
