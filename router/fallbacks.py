"""Which models may answer in another one's place."""

from collections.abc import Mapping, Sequence

Fallbacks = Mapping[str, Sequence[str]]
"""Model → the models that may answer in its place, in order."""


def chain(model: str, fallbacks: Fallbacks) -> tuple[str, ...]:
    """Return every model that may answer in `model`'s place, in order, each once.

    A model's own fallbacks stand right behind it. There must be no circle.
    """
    found: dict[str, None] = {}
    for name in fallbacks.get(model, ()):
        found[name] = None
        found.update(dict.fromkeys(chain(name, fallbacks)))
    return tuple(found)


def find_cycle(fallbacks: Fallbacks) -> tuple[str, ...] | None:
    """Return models each of which falls back on the next and the last on the first, or None."""
    sound: set[str] = set()

    def follow(path: tuple[str, ...]) -> tuple[str, ...] | None:
        for name in fallbacks.get(path[-1], ()):
            if name in path:
                return (*path[path.index(name) :], name)
            if name not in sound and (cycle := follow((*path, name))) is not None:
                return cycle
        sound.add(path[-1])
        return None

    for name in fallbacks:
        if name not in sound and (cycle := follow((name,))) is not None:
            return cycle
    return None


def check_fallbacks(fallbacks: Fallbacks) -> None:
    """Check that every fallback is one of the models, stands once, and that none runs in a circle.

    Raises:
        ValueError: If not; the message begins with the dotted path.
    """
    for index, names in enumerate(fallbacks.values()):
        for place, name in enumerate(names):
            where = f"models.{index}.fallbacks.{place}"
            if name not in fallbacks:
                known = ", ".join(sorted(fallbacks))
                raise ValueError(
                    f"{where}: {name!r} is no model of this file; name one of: {known}"
                )
            if name in names[:place]:
                raise ValueError(f"{where}: {name!r} appears twice; remove one")
    cycle = find_cycle(fallbacks)
    if cycle is not None:
        raise ValueError(f"models: fallbacks run in a circle, {' → '.join(cycle)}; cut it")
