"""The built-in lists of devices, prices and models, with a user's own entries over them."""

from collections.abc import Callable, Hashable, Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.documents import read_document
from planner.errors import UnknownNameError
from planner.hardware.gpu_spec import Date, GpuSpec, Source
from planner.units import Name, Price

_FOLDER = resources.files("planner") / "catalogues"

Market = Literal["on-demand", "spot", "owned"]
"""How a device is had: rented for good, rented until taken back, or already paid for."""


Document = TypeVar("Document", bound=StrictModel)
Entry = TypeVar("Entry")


class PriceEntry(StrictModel):
    """What one device costs in one market of one region."""

    gpu: Name
    """Device, by its name in the list of devices."""
    market: Market
    """How it is had."""
    region: Name
    """Where."""
    usd_per_hour: Price
    """Price of one device."""
    source: Source
    """Where the price comes from."""
    date: Date
    """When it was so."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Device, market and region in small letters: at most one price each."""
        return self.gpu.casefold(), self.market, self.region.casefold()


class ModelEntry(StrictModel):
    """A model known without a network."""

    name: Name
    """Hub id."""
    parameters: Annotated[int, Field(gt=0)]
    """Parameters its publisher states."""
    config: dict[str, Any]
    """Fields of its config.json that decide size and speed."""
    source: Source
    """Where the numbers come from."""
    date: Date
    """When the model was published."""


class Catalogue(StrictModel):
    """Devices, prices and models; a user's file has the same form and may leave lists out."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    gpus: tuple[GpuSpec, ...] = ()
    """Devices."""
    prices: tuple[PriceEntry, ...] = ()
    """Prices of one device an hour."""
    models: tuple[ModelEntry, ...] = ()
    """Models."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_unique("gpus", (gpu.name for gpu in self.gpus))
        _check_unique("models", (model.name for model in self.models))
        _check_unique("prices", (f"{p.gpu}/{p.market}/{p.region}" for p in self.prices))
        return self

    def gpu(self, name: str) -> GpuSpec:
        """Return the device called `name`, whatever the case of its letters.

        Raises:
            UnknownNameError: If none is.
        """
        for gpu in self.gpus:
            if gpu.name.casefold() == name.casefold():
                return gpu
        names = [gpu.name for gpu in self.gpus]
        raise UnknownNameError("device", name, names, "correct it or describe it in a catalogue")

    def prices_of(
        self, gpu: str, *, market: str | None = None, region: str | None = None
    ) -> tuple[PriceEntry, ...]:
        """Return the prices of a device, optionally of one market or region; perhaps none.

        As for devices, the case of the letters does not matter.
        """
        place = None if region is None else region.casefold()
        return tuple(
            price
            for price in self.prices
            if price.key[0] == gpu.casefold()
            and market in (None, price.market)
            and place in (None, price.key[2])
        )

    def updated(self, own: "Catalogue") -> "Catalogue":
        """Return this catalogue with the entries of `own` added, in the place of equal keys.

        Raises:
            UnknownNameError: If a price is for a device that neither lists.
        """
        merged = Catalogue(
            schema_version=1,
            gpus=_merged(self.gpus, own.gpus, lambda gpu: gpu.name.casefold()),
            prices=_merged(self.prices, own.prices, lambda price: price.key),
            models=_merged(self.models, own.models, lambda model: model.name.casefold()),
        )
        for price in own.prices:
            merged.gpu(price.gpu)
        return merged


def built_in_catalogue() -> Catalogue:
    """Return the lists that ship with the planner."""
    catalogue = Catalogue(schema_version=1)
    for name in ("gpus.yaml", "prices.yaml", "models.yaml"):
        catalogue = catalogue.updated(read_packaged(name, Catalogue))
    return catalogue


def load_catalogue(files: Iterable[Path] = ()) -> Catalogue:
    """Return the built-in lists with the entries of the user's files over them, in order.

    Raises:
        DocumentError: If a file cannot be read or breaks the schema.
        UnknownNameError: If a price is for an unknown device.
    """
    catalogue = built_in_catalogue()
    for file in files:
        catalogue = catalogue.updated(read_document(file, Catalogue))
    return catalogue


def read_packaged(name: str, model: type[Document]) -> Document:
    """Return a file of the package's `catalogues` folder as a `model`."""
    file: Traversable = _FOLDER / name
    with resources.as_file(file) as path:
        return read_document(path, model)


def _merged(
    entries: Iterable[Entry], own: Iterable[Entry], key: Callable[[Entry], Hashable]
) -> tuple[Entry, ...]:
    return tuple(({key(entry): entry for entry in (*entries, *own)}).values())


def _check_unique(where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"{where}: {name} is there twice; remove one")
        seen.add(name.casefold())
