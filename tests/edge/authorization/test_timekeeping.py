"""DESIGN 4, Time: which clock is trusted, what has surely passed, and what goes by which of the two."""

import cbor2
import pytest
from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.clock import SECOND_US, Instant
from farthing.refusal import Refusal
from farthing.v1 import directive_pb2
from farthing_edge.authorization import commands
from farthing_edge.authorization.applying import apply
from farthing_edge.authorization.events import (
    KIND_OF,
    ClockJudged,
    ClockStepped,
    HeadRecorded,
    QuotaStopped,
    Started,
    decode,
)
from farthing_edge.authorization.packing import pack
from farthing_edge.authorization.state import CoreSettings, GatewayState
from farthing_edge.authorization.timekeeping import AGREES_US, BELIEVED_AHEAD_US

HOUR = 3600 * SECOND_US
YEAR = 365 * 24 * HOUR
NINE, TEN = clock("09:00"), clock("10:00")


class Site(Gateway):
    """A gateway whose clock is a line over monotonic time: it can be stepped, and its machine can boot."""

    def __init__(self, at: Instant = NINE, *, synchronised: bool = True) -> None:
        self.monotonic_us = 0
        self.boots = 0
        self.meters: dict[str, Meter] = {}
        super().__init__("G1", "S1", at)
        self.settings = CoreSettings(gateway_id="G1", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1)
        self.state = GatewayState(self.settings)
        self.policy = Policy("G1")
        self.journal = []
        self.start(synchronised=synchronised)
        self.welcome(1)
        fund(self, "P", "card")
        for name in ("chg-3", "noon-1"):
            self.told(tariff=Policy.tariff(name))
        self.told(device=Policy.device("c1"))
        self.told(device=Policy.device("n1", tariff_id="noon-1"))
        self.told(device=Policy.device("s1", tariff_id="noon-1", profile="standing", standing_account_id="P"))
        self.told(quota_granted=Policy.quota("q1", "P", 50 * M, TEN))
        # It has known all there was before: a head of today would vouch for its clock.
        self.journal.append(HeadRecorded(version=self.policy.version, at=Instant(1)))
        apply(self.state, self.journal[-1])

    def start(self, *, synchronised: bool = False, journal_at: int = 0) -> None:
        self.do(
            commands.Started(
                start_id=bytes(16),
                boot_id=f"boot {self.boots}",
                clock_epoch_us=0,
                clock_real_epoch_us=0,
                clock_rate=1,
                real_us=self.at,
                monotonic_us=self.monotonic_us,
                synchronised=synchronised,
                journal_at=journal_at,
            )
        )

    def start_again(self, *, synchronised: bool = False, journal_at: int = 0) -> None:
        """The process begins anew, with what its journal says."""
        self.state = self.replayed()
        self.start(synchronised=synchronised, journal_at=journal_at)

    def boot(self, at: Instant, *, synchronised: bool = False, journal_at: int = 0) -> None:
        self.boots += 1
        self.monotonic_us = 10 * SECOND_US
        self.at = at
        self.start_again(synchronised=synchronised, journal_at=journal_at)

    def welcome(self, incarnation: int) -> None:
        self.told(
            welcome=directive_pb2.Welcome(
                operator_id="op",
                site_id="S1",
                incarnation=incarnation,
                receipt_keys=[b"key"],
                time_zone="Europe/Berlin",
            )
        )

    def wait(self, us: int) -> None:
        self.at = Instant(self.at + us)
        self.monotonic_us += us

    def step(self, us: int, *, synchronised: bool = False) -> None:
        self.at = Instant(self.at + us)
        self.read(us, synchronised=synchronised)

    def read(self, stepped_us: int = 0, *, synchronised: bool = False) -> None:
        self.do(
            commands.ClockRead(
                boot_id=f"boot {self.boots}",
                real_us=self.at,
                monotonic_us=self.monotonic_us,
                stepped_us=stepped_us,
                synchronised=synchronised,
            )
        )

    def head(self, at: Instant) -> None:
        self.do(commands.HeadArrived(version=self.state.directive_version, at=at))

    def asks(self, device: str = "c1") -> Refusal | None:
        """What a new use hears, by a device whose own clock is right; None for a yes, which is then ended."""
        meter = self.meters.setdefault(device, Meter(device, 0))
        reply = self.say(meter.intent(self, at=NINE), "card")
        assert reply is not None
        if reply.grant_of is not None:
            meter.authorization = reply.grant_of
            self.say(meter.end(self, 0, at=NINE))
        return reply.refusal

    @property
    def stopped(self) -> list[str]:
        return [event.quota_id for event in self.journal if isinstance(event, QuotaStopped)]


# ---- which clock is trusted


def test_the_kernels_word_makes_a_clock_trusted() -> None:
    assert Site().state.clock.trusted
    site = Site(synchronised=False)
    assert not site.state.clock.trusted
    site.read(synchronised=True)
    assert site.state.clock.trusted


@pytest.mark.parametrize(("off_us", "trusted"), [(AGREES_US, True), (-AGREES_US, True), (-AGREES_US - 1, False)])
def test_a_head_that_agrees_makes_a_clock_trusted(off_us: int, *, trusted: bool) -> None:
    site = Site(synchronised=False)
    site.head(Instant(site.at + off_us))
    assert site.state.clock.trusted is trusted


def test_an_old_directive_confirms_no_clock() -> None:
    """A chain that is read again says dates of long ago: a clock that stands there as well is not right for it."""
    site = Site(synchronised=False)
    site.told(account=Policy.account("P2"))
    assert not site.state.clock.trusted


def test_a_clock_behind_a_signed_word_is_not_trusted_whoever_synchronises_it() -> None:
    site = Site()
    site.head(Instant(site.at + AGREES_US + 1))
    assert not site.state.clock.trusted
    site.read(synchronised=True)
    assert not site.state.clock.trusted
    # Once it has caught up, it is.
    site.step(AGREES_US, synchronised=True)
    assert site.state.clock.trusted


def test_a_step_is_an_entry_and_takes_the_trust_away() -> None:
    site = Site()
    site.wait(HOUR)
    site.step(-HOUR)
    stepped = site.journal[-1]
    assert stepped == ClockStepped(
        at=NINE,
        step_us=-HOUR,
        boot_id="boot 0",
        real_us=NINE,
        monotonic_us=HOUR,
        trusted=False,
        lead_us=HOUR,
    )
    assert (site.state.clock.steps, site.state.clock.stepped_us) == (1, -HOUR)
    # One that the kernel vouches for afterwards, forwards, keeps it.
    site = Site()
    site.step(HOUR, synchronised=True)
    assert site.state.clock.trusted


def test_within_one_boot_a_process_takes_the_trust_over() -> None:
    site = Site()
    site.wait(HOUR)
    site.start_again()
    assert site.state.clock.trusted


def test_a_step_while_the_process_was_down_is_seen_by_monotonic_time() -> None:
    site = Site()
    site.wait(HOUR)
    site.at = Instant(site.at - HOUR // 2)
    site.start_again()
    started = site.journal[-1]
    assert isinstance(started, Started)
    assert (started.step_us, started.trusted, started.lead_us) == (-HOUR // 2, False, HOUR // 2)


def test_after_a_boot_nobody_is_trusted_before_he_is_vouched_for() -> None:
    site = Site()
    site.boot(Instant(NINE + HOUR))
    assert not site.state.clock.trusted
    site.boot(Instant(NINE + HOUR), synchronised=True)
    assert site.state.clock.trusted


def test_after_a_boot_a_synchronised_clock_before_the_journals_end_is_not_trusted() -> None:
    site = Site()
    site.wait(HOUR)
    site.boot(Instant(NINE + HOUR // 2), synchronised=True, journal_at=Instant(NINE + HOUR))
    assert not site.state.clock.trusted
    assert site.state.clock.latest(site.at) == NINE + HOUR


def test_the_time_of_an_entry_proves_nothing_where_its_clock_was_not_trusted() -> None:
    site = Site(synchronised=False)
    site.boot(NINE, synchronised=True, journal_at=Instant(NINE + YEAR))
    assert site.state.clock.latest(site.at) == NINE


# ---- what stops new use


def test_a_pi_that_boots_years_ago_spends_nothing_after_the_deadline() -> None:
    site = Site()
    assert site.asks() is None
    # Written down: heads in between are not (``_HEAD_RECORDS``).
    site.wait(12 * HOUR)
    site.head(Instant(NINE + 12 * HOUR))
    site.boot(Instant(NINE - 3 * YEAR))
    assert site.asks() is Refusal.QUOTA_EXHAUSTED
    # What is closed goes by what is proven, and this is.
    site.do(commands.Tick())
    assert site.stopped == ["q1"]


def test_a_heads_word_stops_use_at_once_and_time_goes_on_from_it() -> None:
    site = Site()
    site.boot(Instant(NINE - 3 * YEAR))
    site.head(Instant(TEN - HOUR // 4))
    assert site.asks() is None
    site.wait(HOUR // 4 - 1)
    assert site.asks() is None
    site.wait(1)
    assert site.asks() is Refusal.QUOTA_EXHAUSTED


def test_a_head_of_the_past_lowers_nothing() -> None:
    site = Site()
    site.wait(HOUR)
    site.boot(Instant(NINE - YEAR), journal_at=TEN)
    before = site.state.clock.latest(site.at)
    for at in (0, NINE - YEAR, NINE, TEN - 1):
        site.head(Instant(at))
        assert site.state.clock.latest(site.at) == before
        assert not site.state.clock.trusted


def test_old_directives_are_stale_by_what_has_passed_not_by_a_clock_that_went_back() -> None:
    site = Site()
    site.head(NINE)
    site.wait(site.settings.directive_max_age_us + 1)
    site.step(-YEAR)
    assert site.asks() is Refusal.DIRECTIVES_TOO_OLD


def test_a_clock_that_is_put_back_gives_no_deadline_more_time() -> None:
    site = Site()
    site.wait(HOUR)
    site.step(-HOUR)
    assert site.asks() is Refusal.QUOTA_EXHAUSTED


def test_a_head_far_ahead_of_a_trusted_clock_is_not_believed() -> None:
    site = Site()
    site.head(Instant(NINE + BELIEVED_AHEAD_US + 1))
    assert site.state.clock.trusted
    assert site.state.clock.doubted_us == BELIEVED_AHEAD_US + 1
    assert site.state.head_at == NINE
    assert site.asks() is None
    site.head(NINE)
    assert site.state.clock.doubted_us == 0
    # A day is what a wrong clock of the cloud can take away.
    site.head(Instant(NINE + BELIEVED_AHEAD_US))
    assert site.asks() is Refusal.QUOTA_EXHAUSTED


def test_a_new_incarnation_begins_the_lower_bound_again() -> None:
    site = Site(synchronised=False)
    site.head(Instant(NINE + YEAR))
    assert site.state.clock.latest(site.at) == NINE + YEAR
    site.welcome(2)
    assert site.state.clock.latest(site.at) == NINE
    site.boot(NINE)
    assert site.state.clock.latest(site.at) == NINE


# ---- what is closed or given back


def test_a_clock_that_may_be_ahead_stops_new_use_and_closes_nothing() -> None:
    site = Site()
    site.step(2 * HOUR)
    assert site.asks() is Refusal.QUOTA_EXHAUSTED
    site.do(commands.Tick())
    assert site.stopped == []
    # It was an error, and is put right: the quota is there again.
    site.step(-2 * HOUR)
    site.head(site.at)
    assert site.asks() is None
    site.wait(HOUR)
    site.do(commands.Tick())
    assert site.stopped == ["q1"]


def test_a_clock_that_may_be_ahead_gives_nothing_back_as_unused() -> None:
    site = Site()
    site.told(quota_granted=Policy.quota("q2", "P", M, Instant(NINE + YEAR)))
    site.do(commands.UplinkChanged(online=True))
    site.step(2 * site.settings.quota_idle_us)
    site.do(commands.Tick())
    assert site.stopped == []
    site.head(site.at)
    site.do(commands.Tick())
    assert site.stopped == ["q1", "q2"]


def test_a_request_is_made_again_although_the_clock_was_put_back() -> None:
    site = Site()
    site.told(account=Policy.account("P2", preload_micros=M))
    site.do(commands.Tick())
    (counter,) = site.state.requests
    site.do(commands.QuotaAnswered(counter=counter, answer=2))
    site.step(-YEAR)
    site.state.low.add("P2")
    site.do(commands.Tick())
    assert site.state.accounts["P2"].request is not None


# ---- prices by date and time of day


def test_a_price_by_the_time_of_day_waits_for_a_trusted_clock() -> None:
    site = Site(synchronised=False)
    assert site.asks("c1") is None
    assert site.asks("n1") is Refusal.CLOCK_UNTRUSTED
    meter = Meter("s1", 0, tariff="noon-1")
    assert site.say(meter.reading(site, 0)).refusal is Refusal.CLOCK_UNTRUSTED
    site.head(site.at)
    # It was no refusal for ever: the same intent is asked again, and granted.
    assert site.asks("n1") is None
    assert site.say(meter.reading(site, 0)).refusal is None


def test_what_has_begun_is_billed_whatever_becomes_of_the_clock() -> None:
    site = Site()
    meter = Meter("n1", 0, tariff="noon-1")
    meter.authorization = site.say(meter.intent(site), "card").grant_of
    site.step(-YEAR)
    assert site.say(meter.end(site, 1_000, at=Instant(NINE + HOUR // 2))).closed
    assert sum(charge.net_micros for record in site.state.unsealed for charge in record.charges) == 300_000


# ---- devices' clocks


def begun(site: Site, device: str = "c1") -> Meter:
    site.told(tariff=Policy.tariff("park-1"))
    site.told(device=Policy.device(device, tariff_id="park-1", unit="s", rated_per_hour=3_600))
    meter = Meter(device, 0, tariff="park-1")
    meter.authorization = site.say(meter.intent(site), "card").grant_of
    assert meter.authorization is not None
    return meter


def test_a_device_years_ahead_of_a_trusted_clock_is_not_served_and_not_billed_for_years() -> None:
    site = Site()
    meter = begun(site)
    use = site.state.authorizations[meter.authorization]
    site.wait(600 * SECOND_US)
    assert site.say(meter.reading(site, 300, at=Instant(site.at + BELIEVED_AHEAD_US))).refusal is None
    billed = use.gross_micros
    for statement in (
        meter.reading(site, 400, at=Instant(site.at + BELIEVED_AHEAD_US + 1)),
        meter.end(site, 600, at=Instant(site.at + 100 * YEAR)),
    ):
        assert site.say(statement).refusal is Refusal.CLOCK_AHEAD
    assert (use.gross_micros, use.value, use.closed) == (billed, 300, False)
    # It is parked for people, who cannot believe it as it is dated; what the device says once its clock is right is taken.
    assert {parked.refusal for parked in site.state.parked_statements.values()} == {Refusal.CLOCK_AHEAD}
    site.told(
        parked_decided=directive_pb2.ParkedDecided(
            device_id="c1", device_epoch=1, counter=meter.counter, accept=True, decision="case 1"
        )
    )
    assert "clock was ahead" in site.state.directive_faults[-1][1]
    assert site.say(meter.end(site, 600)).closed
    assert use.value == 600
    other = Meter("c1", 600, tariff="park-1", counter=100)
    assert site.say(other.intent(site, at=Instant(site.at + YEAR)), "card").refusal is Refusal.CLOCK_AHEAD


def test_a_clock_that_nobody_vouches_for_doubts_no_device() -> None:
    """A board that began in 1970 hears devices whose clocks are right."""
    site = Site()
    meter = begun(site)
    site.boot(Instant(NINE - 20 * YEAR))
    assert not site.state.clock.trusted
    assert site.say(meter.reading(site, 300, at=Instant(NINE + HOUR))).refusal is None


def test_a_standing_meter_years_ahead_begins_nothing() -> None:
    site = Site()
    meter = Meter("s1", 5, tariff="noon-1")
    first = meter.reading(site, 5, at=Instant(NINE + YEAR))
    assert site.say(first).refusal is Refusal.CLOCK_AHEAD
    assert not site.state.authorizations
    assert site.say(meter.reading(site, 5)).refusal is None


def test_the_operator_may_name_the_own_clock_as_the_fall_back() -> None:
    site = Site(synchronised=False)
    site.settings = CoreSettings(
        gateway_id="G1", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1, prices_by_untrusted_clock=True
    )
    site.start_again()
    assert not site.state.clock.trusted
    assert site.asks("n1") is None


# ---- journals


def test_replay_knows_the_time_that_was_known() -> None:
    site = Site()
    site.wait(HOUR)
    site.step(-HOUR)
    site.head(Instant(TEN + HOUR))
    known, replayed = site.state.clock, site.replayed().clock
    assert any(isinstance(event, ClockJudged) for event in site.journal)
    assert [getattr(replayed, name) for name in known.__slots__] == [getattr(known, name) for name in known.__slots__]


def test_a_start_of_an_older_program_still_reads() -> None:
    started = decode(KIND_OF[Started], pack(cbor2.dumps((bytes(16), "boot", 0, 0, 1, b""))))
    assert isinstance(started, Started)
    state = GatewayState(CoreSettings(gateway_id="G1", clock_epoch_us=0, clock_real_epoch_us=0, clock_rate=1))
    apply(state, started)
    assert not state.clock.trusted
    assert state.clock.latest(NINE) == NINE
