"""What a person sees while the run goes on: a table that changes on a terminal, plain lines elsewhere."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from farthing.money import format_micros
from farthing_demo.story import Sample, Story

#: Without a terminal: one line of figures this often, seconds.
LINE_EVERY_S = 5.0


class View:
    """Shows steps and samples; ``with`` it."""

    def __init__(self, *, seconds: int, currency: str) -> None:
        self._console = Console(highlight=False)
        self._seconds = seconds
        self._currency = currency
        self._live: Live | None = None
        self._last_line_at_s = -LINE_EVERY_S
        self._began = time.monotonic()

    @property
    def console(self) -> Console:
        """Where everything is printed."""
        return self._console

    def say(self, what: str) -> None:
        """One step of the run."""
        self._console.print(Text(f"{time.monotonic() - self._began:6.1f}  {what}"), soft_wrap=True)

    def begin(self) -> None:
        """Traffic begins: show the table where there is a terminal."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def end(self) -> None:
        """Traffic is over."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, sample: Sample, story: Story) -> None:
        """The newest look at everything."""
        if self._live is not None:
            self._live.update(self._picture(sample, story))
        elif sample.at_s - self._last_line_at_s >= LINE_EVERY_S:
            self._last_line_at_s = sample.at_s
            gateways = "; ".join(
                f"{g.gateway} {'up' if g.online else 'CUT' if g.alive else 'KILLED'}, offline yes {g.granted_offline}, backlog {g.backlog}"
                for g in sample.gateways
            )
            self._console.print(
                f"  {sample.at_s:5.1f} s  sessions {sample.sessions}, open {sample.open_sessions}; {gateways}; "
                f"posted {format_micros(sample.posted_micros)} {self._currency}",
                soft_wrap=True,
            )

    def _picture(self, sample: Sample, story: Story) -> Group:
        table = Table(title=f"{sample.at_s:.0f} of {self._seconds} s", title_justify="left")
        for column in ("gateway", "uplink", "yes online", "yes offline", "refused", "open", "records", "backlog", "sealed", "receipted", "proven"):  # fmt: skip
            table.add_column(column, justify="left" if column in ("gateway", "uplink") else "right")
        for g in sample.gateways:
            uplink = Text("up", "green") if g.online else Text("cut", "yellow") if g.alive else Text("killed", "red")
            table.add_row(
                g.gateway, uplink, *(str(n) for n in (g.granted_online, g.granted_offline, g.refused, g.open_authorizations, g.records, g.backlog, g.sealed, g.receipted, g.proven))
            )  # fmt: skip
        money = Text(
            f"{sample.devices} devices, {sample.sessions} sessions, {sample.open_sessions} open now; "
            f"posted {format_micros(sample.posted_micros)} {self._currency}"
        )
        last = Text("\n".join(f"{h.at_s:5.1f} s  {h.what}" for h in story.happenings[-4:]), "dim")
        return Group(table, money, last)
