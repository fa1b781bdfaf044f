"""The run as one self-contained page: no script, no font, no picture from elsewhere.

Charts are SVG drawn here. Colours come from custom properties, so that the page follows the reader's light or dark scheme.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from farthing.money import format_micros
from farthing_demo.story import Cut, Happening, Sample, Story

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 210, 56, 14, 16, 26
#: Bars of the authorization chart: enough to see a cut, few enough to read.
BUCKETS = 60

STYLE = """
:root{--ink:#1b1f24;--soft:#5c6670;--line:#d9dee3;--paper:#ffffff;--card:#f6f8fa;--a:#2463b4;--b:#d9731a;--c:#2a8a57;--d:#8b4fb0;
--cut:#d9731a22;--swallow:#8b4fb022;--good:#1f7a48;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b0;--line:#333b44;--paper:#14181c;--card:#1c2127;--a:#6ea8f0;
--b:#f0a050;--c:#5cc48d;--d:#c492e6;--cut:#f0a05026;--swallow:#c492e626;--good:#5cc48d;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 8px}
p{margin:4px 0 10px;color:var(--soft)}.verdict{display:inline-block;padding:3px 12px;border-radius:14px;color:#fff;font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:10px;margin:20px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}.card b{display:block;font-size:22px;
font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{padding:5px 10px;border-bottom:1px solid var(--line);
text-align:left}td.n,th.n{text-align:right}.ok{color:var(--good);font-weight:600}.no{color:var(--bad);font-weight:600}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}.legend{display:flex;gap:18px;
flex-wrap:wrap;font-size:13px;color:var(--soft)}.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;
vertical-align:-1px}
"""


def _nice(most: float) -> float:
    """The next round number, for an axis that ends at or above ``most``."""
    if most <= 0:
        return 1
    step = float(10 ** (len(str(int(most))) - 1))
    return next(step * k for k in (1, 2, 2.5, 5, 10) if step * k >= most)


class _Chart:
    """A frame over the run's seconds; the cuts stand behind everything."""

    def __init__(self, *, seconds: float, most: float, label: Callable[[float], str], cuts: Sequence[Cut]) -> None:
        self.seconds, self.most = max(seconds, 1.0), _nice(most)
        self.parts: list[str] = []
        for cut in cuts:
            x, width = self.x(cut.from_s), self.x(cut.to_s) - self.x(cut.from_s)
            colour = "var(--cut)" if cut.kind == "refusing" else "var(--swallow)"
            self.parts.append(
                f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="{colour}"/>'
            )
        for share in (0, 0.5, 1):
            y = self.y(self.most * share)
            self.parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            )
            self.parts.append(
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label(self.most * share))}</text>'
            )
        for tenth in range(0, 11, 2):
            at = self.seconds * tenth / 10
            self.parts.append(f'<text x="{self.x(at):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{at:.0f} s</text>')

    def x(self, at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at_s, 0), self.seconds) / self.seconds

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value, self.most) / self.most

    def steps(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A line that keeps its value until the next sample."""
        if not points:
            return
        path = [f"M{self.x(points[0][0]):.1f} {self.y(points[0][1]):.1f}"]
        path += [f"H{self.x(at):.1f}V{self.y(value):.1f}" for at, value in points[1:]]
        self.parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def bar(self, from_s: float, to_s: float, low: float, high: float, colour: str) -> None:
        if high <= low:
            return
        x, width = self.x(from_s), max(self.x(to_s) - self.x(from_s) - 1.5, 1)
        top, bottom = self.y(high), self.y(low)
        self.parts.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}" fill="{colour}" rx="1"/>'
        )

    def marks(self, happenings: Sequence[Happening]) -> None:
        for happening in happenings:
            x = self.x(happening.at_s)
            self.parts.append(
                f'<g><title>{escape(happening.what)}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                f'stroke="var(--bad)" stroke-dasharray="3 3"/><text x="{x + 4:.1f}" y="{TOP + 9}">{escape(happening.what)}</text></g>'
            )

    def svg(self, title: str) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(self.parts)}</svg>'
        )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<span><i style="background:{colour}"></i>{escape(text)}</span>' for colour, text in entries)
    return f'<div class="legend">{items}</div>'


CUT_LEGEND = (("var(--cut)", "uplinks refused"), ("var(--swallow)", "uplinks swallowed"))


def _authorizations(story: Story, seconds: float) -> str:
    width = max(seconds, 1.0) / BUCKETS
    online, offline = [0] * BUCKETS, [0] * BUCKETS
    before = (0, 0)
    for sample in story.samples:
        now = (sum(g.granted_online for g in sample.gateways), sum(g.granted_offline for g in sample.gateways))
        bucket = min(int(sample.at_s / width), BUCKETS - 1)
        online[bucket] += max(0, now[0] - before[0])
        offline[bucket] += max(0, now[1] - before[1])
        before = (max(now[0], before[0]), max(now[1], before[1]))
    most = max((a + b for a, b in zip(online, offline, strict=True)), default=1)
    chart = _Chart(seconds=seconds, most=most, label=lambda v: f"{v:g}", cuts=story.cuts)
    for index, (on, off) in enumerate(zip(online, offline, strict=True)):
        chart.bar(index * width, (index + 1) * width, 0, on, "var(--a)")
        chart.bar(index * width, (index + 1) * width, on, on + off, "var(--b)")
    chart.marks([h for h in story.happenings if "kill" in h.what])
    return chart.svg("authorizations over time") + _legend(
        [("var(--a)", "yes, uplink there"), ("var(--b)", "yes, offline"), *CUT_LEGEND]
    )


def _lines(
    story: Story, seconds: float, value: Callable[[Sample, int], float], label: Callable[[float], str], title: str
) -> str:
    names = [g.gateway for g in story.samples[-1].gateways] if story.samples else []
    series = [
        [(sample.at_s, value(sample, index)) for sample in story.samples if index < len(sample.gateways)]
        for index in range(len(names))
    ]
    most = max((point[1] for points in series for point in points), default=1)
    chart = _Chart(seconds=seconds, most=most, label=label, cuts=story.cuts)
    colours = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")
    for index, points in enumerate(series):
        chart.steps(points, colours[index % len(colours)])
    legend = [(colours[index % len(colours)], name) for index, name in enumerate(names)]
    return chart.svg(title) + _legend([*legend, *CUT_LEGEND])


def _batches(story: Story, seconds: float) -> str:
    most = max((g.sealed for sample in story.samples for g in sample.gateways), default=1)
    chart = _Chart(seconds=seconds, most=most, label=lambda v: f"{v:g}", cuts=story.cuts)
    legend = []
    for index, (dark, light) in enumerate((("var(--a)", "var(--c)"), ("var(--b)", "var(--d)"))):
        points = [sample for sample in story.samples if index < len(sample.gateways)]
        if not points:
            continue
        chart.steps([(sample.at_s, sample.gateways[index].sealed) for sample in points], dark)
        chart.steps([(sample.at_s, sample.gateways[index].receipted) for sample in points], light)
        name = points[-1].gateways[index].gateway
        legend += [(dark, f"{name} sealed"), (light, f"{name} receipted")]
    return chart.svg("batches sealed and receipted") + _legend([*legend, *CUT_LEGEND])


def _money(shares: dict[str, int], currency: str) -> str:
    most = max(shares.values(), default=1) or 1
    rows = []
    for path, amount in sorted(shares.items(), key=lambda item: -item[1]):
        width = max(0, amount) * 100 / most
        rows.append(
            f"<tr><td>{escape(path)}</td><td style='width:60%'><div style='background:var(--c);height:14px;border-radius:3px;"
            f"width:{width:.2f}%'></div></td><td class=n>{format_micros(amount)} {escape(currency)}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def render(*, report: dict[str, Any], proof: Sequence[tuple[str, str, str, bool]], story: Story, currency: str) -> str:
    """The page. ``proof`` rows are (what, left side, right side, holds)."""
    seconds = max([sample.at_s for sample in story.samples], default=1.0)
    ok = bool(report["ok"])
    cards = [
        (format_micros(report["delivered_micros"]), f"{currency} delivered, by the devices' count"),
        (format_micros(report["ledger_micros"]), f"{currency} in the ledger"),
        (str(report["records"]), "usage records"),
        (str(report["offline_authorizations"]), "authorizations while cut off"),
        (f"{report['lost']} / {report['doubled']} / {report['overspent']}", "lost / doubled / overspent"),
        (str(report["clones_caught"]), "clones caught"),
        (str(report["kills"]), "gateways killed with SIGKILL"),
    ]
    refusals = "".join(
        f"<tr><td class=n>{escape(number)}</td><td>{escape(str(name))}</td><td class=n>{count}</td></tr>"
        for number, (name, count) in sorted(report["refusal_names"].items(), key=lambda item: int(item[0]))
    )
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td class=n>{escape(left)}</td><td class=n>{escape(right)}</td>"
        f"<td class={'ok' if holds else 'no'}>{'holds' if holds else 'BROKEN'}</td></tr>"
        for what, left, right, holds in proof
    )
    events = "".join(f"<tr><td class=n>{h.at_s:.1f} s</td><td>{escape(h.what)}</td></tr>" for h in story.happenings)
    verdict = f'<span class="verdict" style="background:var(--{"good" if ok else "bad"})">{"every check holds" if ok else "a check is broken"}</span>'
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Farthing: one run, to the micro</title><style>{STYLE}</style></head><body><main>
<h1>What devices delivered became agencies' money</h1>
<p>{report["devices"]} devices at two sites, {report["seconds"]} s in all, seed {report["seed"]}; the uplinks were cut for a third of the traffic.</p>
{verdict}
<div class="cards">{"".join(f'<div class="card"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in cards)}</div>
<h2>The proof</h2><p>Each row compares sums that different parties keep; all to the micro.</p>
<table><tr><th>what</th><th class=n>one side</th><th class=n>other side</th><th></th></tr>{rows}</table>
<h2>Authorizations</h2><p>While the uplinks were away, gateways said yes out of money the cloud had set aside for them.</p>{_authorizations(story, seconds)}
<h2>Backlog</h2><p>Usage records billed and not yet receipted by the cloud.</p>
{_lines(story, seconds, lambda s, i: s.gateways[i].backlog, lambda v: f"{v:g}", "backlog")}
<h2>Batches</h2><p>Sealed and signed at the gateway; receipted by the cloud when posted.</p>{_batches(story, seconds)}
<h2>Money by agency</h2><p>The window was closed and split by the site's rule; tax apart.</p>{_money(report["share_paths"], currency)}
<h2>Refusals</h2><table><tr><th class=n>number</th><th>name</th><th class=n>times</th></tr>{refusals}</table>
<h2>What happened</h2><table>{events}</table>
</main></body></html>
"""
