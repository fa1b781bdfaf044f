"""Figures of real unattended use, computed once by :mod:`farthing_firmware_sim.traffic.measure`; a test computes them again.

Quantile tables hold the least value, each further 5 % by nearest rank, and the largest.

What no data at hand says is an assumption of ours and is named ``ASSUMED_*``.
"""

from typing import TypeAlias

Quantiles: TypeAlias = tuple[int, ...]

# ACN-Data (Lee, Li, Low: "ACN-Data: Analysis and Applications of an Open EV Charging Dataset", e-Energy 2019), site Caltech,
# 2,477 sessions at 50 stations from 2019-12-30 to 2020-12-30. Power: energy over connection to doneChargingTime (1,603
# sessions that have a plausible one); idle: plugged in after that.
ACN_ENERGY_WH: Quantiles = (
    509, 827, 875, 932, 1318, 2056, 2618, 3580, 4140, 4689, 5524, 6076, 6584, 7889, 9489, 11228, 12679, 14405, 18235, 27234,
    53925,
)  # fmt: skip
ACN_POWER_W: Quantiles = (
    25, 259, 951, 1560, 1702, 1935, 2278, 2584, 2857, 2977, 3067, 3191, 3297, 3420, 3687, 4957, 5632, 6064, 6362, 6611, 40217,
)  # fmt: skip
ACN_IDLE_S: Quantiles = (
    1, 4, 5, 8, 74, 460, 1254, 2216, 3406, 4767, 6456, 8732, 11268, 14266, 16883, 19803, 21650, 24201, 26998, 31081, 167909,
)  # fmt: skip

# Perth & Kinross Council, electric vehicle charging sessions 2018-09 to 2019-08: 32,711 rows of 35 charge points, mostly
# rapid. Power: energy over the whole stay, to the minute (short stays make absurd maxima: a charger's rating caps them).
PERTH_KINROSS_ENERGY_WH: Quantiles = (
    1, 1370, 2520, 3600, 4510, 5180, 5690, 6307, 7055, 7890, 8890, 10010, 11170, 12390, 13730, 15120, 16890, 19182, 22180, 27440,
    96866,
)  # fmt: skip
PERTH_KINROSS_POWER_W: Quantiles = (
    1, 1804, 2883, 3468, 4650, 6990, 9922, 12000, 13852, 15211, 16860, 18600, 20850, 22680, 25628, 28800, 32166, 35683, 39078,
    42450, 741000,
)  # fmt: skip

# Low Carbon London (UK Power Networks), households MAC000584 and MAC000985, 64,757 half hours, 2012 to 2014.
LOW_CARBON_LONDON_HALF_HOUR_WH: Quantiles = (
    7, 9, 12, 13, 17, 26, 33, 56, 84, 140, 473, 540, 624, 731, 943, 1121, 1285, 1526, 1876, 2548, 7566,
)  # fmt: skip

# Vending machines with card readers, 2022, 5 machines, 6,109 processed transactions: what one payment comes to.
VENDING_PAYMENT_CENTS: Quantiles = (
    100, 125, 150, 150, 150, 150, 150, 150, 150, 150, 150, 200, 200, 200, 250, 250, 275, 300, 300, 350, 800,
)  # fmt: skip

# City of San Diego, parking meters and their tariff texts, 4,931 meters: (longest stay in minutes, meters), and the
# commonest price of an hour.
SAN_DIEGO_LONGEST_STAY_MIN: tuple[tuple[int, int], ...] = (
    (15, 107), (30, 136), (60, 237), (120, 3707), (240, 144), (480, 1), (540, 318),
)  # fmt: skip
SAN_DIEGO_PRICE_CENTS_PER_HOUR = 125

#: ASSUMPTION: chargers rated above this are rapid chargers and see Perth & Kinross's sessions, others Caltech's.
ASSUMED_RAPID_FROM_W = 22_000
#: ASSUMPTION: energy and power of a session are drawn independently (the files hold both, their dependence is not kept).
#: ASSUMPTION: at a public charger cars do not stay plugged in through a working day as at a campus: idle time is a quarter.
ASSUMED_IDLE_DIVISOR = 4
#: ASSUMPTION: payers at a parking meter put in what payers at a vending machine do; the stay follows from San Diego's price
#: and is cut at the meter's longest stay. (San Diego's transactions themselves could not be had.)
#: ASSUMPTION: mean business time between two uses of a device, exponential. Caltech's stations saw 0.56 sessions a day in
#: early 2020, Perth & Kinross's 2.6: these gaps give a device a handful of uses in 15 hours, so that a short run has some.
ASSUMED_CHARGER_GAP_S = 3_600
ASSUMED_PARKING_GAP_S = 2_400
#: ASSUMPTION: nothing at hand says how often a transponder passes: a lorry in distribution traffic.
ASSUMED_TOLL_GAP_S = 2_700
#: ASSUMPTION: the vending file's machines sell a few times a day; a run would see nothing of them.
ASSUMED_VENDING_GAP_S = 1_800
#: ASSUMPTION: water, air, a ride: nothing at hand says how much of it people take at once, or how long they stand there afterwards.
ASSUMED_DISPENSER_GAP_S = 600
ASSUMED_DISPENSER_UNITS = (5, 120)
ASSUMED_DISPENSER_IDLE_S = 60
#: A household's meter in the files changes its mean every half hour.
HALF_HOUR_S = 1_800


def at_rank(quantiles: Quantiles, rank_ppm: int) -> int:
    """The value at ``rank_ppm`` (0 to 1,000,000), straight between the two nearest quantiles, rounded down."""
    if not 0 <= rank_ppm <= 1_000_000:
        raise ValueError("a rank is 0 to 1,000,000 ppm")
    place, rest = divmod(rank_ppm * (len(quantiles) - 1), 1_000_000)
    low = quantiles[place]
    if rest == 0:
        return low
    return low + (quantiles[place + 1] - low) * rest // 1_000_000
