"""Prices: OCPI 2.2.1 tariff objects, generalised to any unit, computed in exact rationals.

Both sides and every verifier price with these functions; a tariff they cannot price does not parse.
"""

from farthing.tariff.error import TariffError as TariffError
from farthing.tariff.parsing import parse as parse
from farthing.tariff.placing import Placed as Placed
from farthing.tariff.pricing import Part as Part
from farthing.tariff.pricing import Priced as Priced
from farthing.tariff.pricing import Use as Use
from farthing.tariff.pricing import ceiling as ceiling
from farthing.tariff.pricing import is_by_calendar as is_by_calendar
from farthing.tariff.pricing import is_placed as is_placed
from farthing.tariff.pricing import limit as limit
from farthing.tariff.pricing import one_shot_use as one_shot_use
from farthing.tariff.pricing import price as price
from farthing.tariff.pricing import price_of_width as price_of_width
from farthing.tariff.pricing import readings_due as readings_due
from farthing.tariff.tariff import Tariff as Tariff
from farthing.tariff.zones import TIME_ZONE_DATA as TIME_ZONE_DATA
