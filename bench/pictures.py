"""One picture for each figure, in ``out/bench/*.svg``: small SVG by hand, with axes, units and the budget as a line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path("out/bench")
WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 96, 24, 54, 62
COLOURS = ("#1b6ca8", "#c0504d", "#4f8f3a", "#8064a2")
BUDGET_COLOUR = "#b00020"
_INNER_WIDTH, _INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
#: Columns of a histogram: fine enough for a tail, wide enough to see.
COLUMNS = 60


@dataclass(frozen=True, slots=True)
class Mark:
    """A line at a value of the axis, with its name; a budget is red."""

    name: str
    value: float

    @property
    def colour(self) -> str:
        """Red for what must not be passed."""
        return BUDGET_COLOUR if self.name.startswith("budget") else "#555"


def histogram(name: str, title: str, series_s: Mapping[str, Sequence[float]], *, marks: Sequence[Mark]) -> Path:
    """Latencies, given in seconds and drawn in milliseconds on a logarithmic axis; marks are in milliseconds."""
    values = [max(value * 1_000, 0.05) for series in series_s.values() for value in series]
    least = 10 ** math.floor(math.log10(min([*values, *(mark.value for mark in marks)])))
    most = 10 ** math.ceil(math.log10(max([*values, *(mark.value for mark in marks)])))
    span = math.log10(most / least) or 1.0

    def x(value: float) -> float:
        return LEFT + _INNER_WIDTH * math.log10(max(value, least) / least) / span

    counted = {
        each: _counted([max(value * 1_000, 0.05) for value in series], least, span) for each, series in series_s.items()
    }
    highest = max(max(columns) for columns in counted.values())
    parts = []
    for number, (each, columns) in enumerate(counted.items()):
        points = [f"{LEFT:.1f},{_y(0, highest):.1f}"]
        for column, share in enumerate(columns):
            left = LEFT + _INNER_WIDTH * column / COLUMNS
            points += [
                f"{left:.1f},{_y(share, highest):.1f}",
                f"{left + _INNER_WIDTH / COLUMNS:.1f},{_y(share, highest):.1f}",
            ]
        points.append(f"{LEFT + _INNER_WIDTH:.1f},{_y(0, highest):.1f}")
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity="0.35" stroke="{colour}"/>')
        parts.append(_legend(number, each, colour))
    decades = range(round(math.log10(least)), round(math.log10(most)) + 1)
    ticks = [(x(10.0**decade), f"{10.0**decade:g}") for decade in decades]
    parts += [
        _upright(x(mark.value), f"{mark.name} {_number(mark.value)} ms", mark.colour, row)
        for row, mark in enumerate(marks)
    ]
    return _write(name, title, parts, ticks, "milliseconds (logarithmic)", _shares(highest), "share of messages")


def over_time(
    name: str,
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    unit: str,
    budget: float | None = None,
) -> Path:
    """Values over seconds."""
    points = [point for each in series.values() for point in each]
    last_s = max(at for at, _ in points) or 1.0
    highest = max([value for _, value in points] + ([] if budget is None else [budget])) * 1.08 or 1.0
    parts = []
    for number, (each, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn = " ".join(f"{LEFT + _INNER_WIDTH * at / last_s:.1f},{_y(value, highest):.1f}" for at, value in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(_legend(number, each, colour))
    if budget is not None:
        parts.append(_level(budget, highest, f"budget {budget:g} {unit}"))
    ticks = [(LEFT + _INNER_WIDTH * share / 5, f"{last_s * share / 5:.0f}") for share in range(6)]
    return _write(name, title, parts, ticks, "seconds", _levels(highest), unit)


def bars(name: str, title: str, values: Mapping[str, float], *, unit: str, budget: float | None = None) -> Path:
    """One bar for each value; the budget as a line across."""
    highest = max([*values.values(), *([] if budget is None else [budget])]) * 1.15 or 1.0
    width = _INNER_WIDTH / len(values)
    parts, ticks = [], []
    for number, (each, value) in enumerate(values.items()):
        left, top = LEFT + width * number + width * 0.2, _y(value, highest)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width * 0.6:.1f}" height="{TOP + _INNER_HEIGHT - top:.1f}" '
            f'fill="{COLOURS[number % len(COLOURS)]}"/>'
        )
        parts.append(
            f'<text x="{left + width * 0.3:.1f}" y="{top - 5:.1f}" text-anchor="middle">{_number(value)}</text>'
        )
        ticks.append((left + width * 0.3, each))
    if budget is not None:
        parts.append(_level(budget, highest, f"budget {_number(budget)} {unit}"))
    return _write(name, title, parts, ticks, "", _levels(highest), unit)


def _counted(values: Sequence[float], least: float, span: float) -> list[float]:
    columns = [0] * COLUMNS
    for value in values:
        columns[min(COLUMNS - 1, int(COLUMNS * math.log10(max(value, least) / least) / span))] += 1
    return [count / len(values) for count in columns]


def _y(value: float, highest: float) -> float:
    return TOP + _INNER_HEIGHT * (1 - value / highest)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _levels(highest: float) -> list[tuple[float, str]]:
    """Lines at round numbers: steps of 1, 2 or 5 times a power of ten, four to eight of them."""
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if highest / (factor * power) < 8)
    return [(_y(step * level, highest), _number(step * level)) for level in range(int(highest / step) + 1)]


def _shares(highest: float) -> list[tuple[float, str]]:
    return [(_y(highest * share / 4, highest), f"{highest * share / 4:.1%}") for share in range(5)]


def _legend(number: int, name: str, colour: str) -> str:
    x = LEFT + 190 * number
    return (
        f'<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/><text x="{x + 15}" y="43">{escape(name)}</text>'
    )


def _upright(x: float, name: str, colour: str, row: int) -> str:
    """A mark; names stand below each other, on the side that has room."""
    end, at = ("end", x - 4) if x > WIDTH / 2 else ("start", x + 4)
    return (
        f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + _INNER_HEIGHT}" stroke="{colour}" stroke-dasharray="5 3"/>'
        f'<text x="{at:.1f}" y="{TOP + 12 + 14 * row}" text-anchor="{end}" fill="{colour}">{escape(name)}</text>'
    )


def _level(value: float, highest: float, name: str) -> str:
    y = _y(value, highest)
    text = f'<text x="{LEFT + _INNER_WIDTH - 4}" y="{y - 5:.1f}" text-anchor="end"'
    return (
        f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + _INNER_WIDTH}" y2="{y:.1f}" stroke="{BUDGET_COLOUR}" stroke-dasharray="5 3"/>'
        # White beneath: it may stand on a bar.
        f'{text} fill="#fff" stroke="#fff" stroke-width="4">{escape(name)}</text>'
        f'{text} fill="{BUDGET_COLOUR}">{escape(name)}</text>'
    )


def _write(
    name: str,
    title: str,
    parts: Sequence[str],
    across: Sequence[tuple[float, str]],
    across_unit: str,
    up: Sequence[tuple[float, str]],
    up_unit: str,
) -> Path:
    floor = TOP + _INNER_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">',
        '<g font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    lines += [f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + _INNER_WIDTH}" y2="{y:.1f}" stroke="#ddd"/>' for y, _ in up]
    lines += [f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>' for y, text in up]
    lines += parts
    lines.append(
        f'<polyline points="{LEFT},{TOP} {LEFT},{floor} {LEFT + _INNER_WIDTH},{floor}" fill="none" stroke="#222"/>'
    )
    lines += [
        f'<line x1="{x:.1f}" y1="{floor}" x2="{x:.1f}" y2="{floor + 5}" stroke="#222"/>'
        f'<text x="{x:.1f}" y="{floor + 19}" text-anchor="middle">{escape(text)}</text>'
        for x, text in across
    ]
    lines.append(
        f'<text x="{LEFT + _INNER_WIDTH / 2:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(across_unit)}</text>'
    )
    middle = TOP + _INNER_HEIGHT / 2
    lines.append(
        f'<text transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(up_unit)}</text>'
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.svg"
    file.write_text("\n".join([*lines, "</g></svg>", ""]), encoding="utf-8")
    return file
