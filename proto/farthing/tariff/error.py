"""The one way in which a tariff has no price."""


class TariffError(ValueError):
    """A tariff, or a use of it, that cannot be priced exactly: it has no price, which is not a price of 0."""
