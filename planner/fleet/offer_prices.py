"""What one device of an offer costs: the file's price, or the catalogue's."""

from planner.errors import PriceError
from planner.fleet.offers import Offer
from planner.hardware.catalogue import Catalogue, PriceEntry


def device_price(offer: Offer, catalogue: Catalogue) -> float:
    """Return USD an hour for one device of `offer` (for one replica where no device is named).

    Raises:
        PriceError: If the file gives none and the catalogue has none, or several.
        UnknownNameError: If the device is in no catalogue.
    """
    if offer.market == "owned":
        return 0.0
    if offer.price_usd_per_hour is not None:
        return offer.price_usd_per_hour
    assert offer.gpu is not None
    gpu = catalogue.gpu(offer.gpu).name
    entries = catalogue.prices_of(gpu, market=offer.market, region=offer.region)
    if not entries:
        known = ", ".join(map(_words, catalogue.prices_of(gpu))) or "none"
        raise PriceError(
            f"{offer.base_name}: no {offer.market} price of {gpu}"
            + (f" in {offer.region}" if offer.region else "")
            + f" is known (known: {known}); give price_usd_per_hour"
        )
    if len(entries) > 1:
        raise PriceError(
            f"{offer.base_name}: {len(entries)} prices of {gpu} are known "
            f"({', '.join(map(_words, entries))}); name the region or give price_usd_per_hour"
        )
    return entries[0].usd_per_hour


def _words(entry: PriceEntry) -> str:
    return f"{entry.market} {entry.region} ${entry.usd_per_hour:g}"
