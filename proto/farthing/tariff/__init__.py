"""Prices: OCPI 2.2.1 tariff objects, generalised to any unit, computed in exact rationals.

Both sides and every verifier price with these functions; a tariff they cannot price does not parse.
"""

from farthing.tariff.parsing import parse as parse
from farthing.tariff.pricing import Part as Part
from farthing.tariff.pricing import Priced as Priced
from farthing.tariff.pricing import Use as Use
from farthing.tariff.pricing import limit as limit
from farthing.tariff.pricing import price as price
from farthing.tariff.tariff import Tariff as Tariff
from farthing.tariff.tariff import TariffError as TariffError
