"""`minions/LOCAL+REMOTE` and `minion/LOCAL+REMOTE`: which two models a name means."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from router.errors import ParameterError

Protocol = Literal["minions", "minion"]

PREFIXES: dict[str, Protocol] = {"minions/": "minions", "minion/": "minion"}


@dataclass(frozen=True, slots=True)
class VirtualName:
    """A protocol over two models."""

    protocol: Protocol
    local: str
    remote: str

    @property
    def model(self) -> str:
        """The name clients send."""
        return f"{self.protocol}/{self.local}+{self.remote}"


def is_virtual(model: str) -> bool:
    """Return whether a name begins as those of virtual models do."""
    return model.startswith(("minions/", "minion/"))


def split_name(model: str, is_pair: Callable[[str, str], bool]) -> VirtualName | None:
    """Return what a name means, or None if no split at a `+` gives a pair; names may hold `+`.

    Args:
        model: What the client sent.
        is_pair: Whether two models go together.

    Raises:
        ParameterError: If several splits give a pair.
    """
    prefix, slash, rest = model.partition("/")
    protocol = PREFIXES.get(prefix + slash)
    if protocol is None:
        return None
    places = [place for place, character in enumerate(rest) if character == "+"]
    splits = [(rest[:place], rest[place + 1 :]) for place in places]
    pairs = [pair for pair in splits if all(pair) and is_pair(*pair)]
    if len(pairs) > 1:
        read = " or ".join(f"{local!r} and {remote!r}" for local, remote in pairs)
        raise ParameterError("model", f"{model!r} may mean {read}; rename one of the models")
    return VirtualName(protocol, *pairs[0]) if pairs else None
