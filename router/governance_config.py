"""The settings of governance, and the file of keys."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from planner.config import StrictModel
from planner.documents import SECRET
from planner.units import Number, Tokens
from router.governance.tenant import Period

TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


def _checked_digest(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        # It may be the key itself.
        raise PydanticCustomError(
            SECRET,
            "must be 64 hexadecimal digits; `motley route key NAME` makes a key and prints them",
        )
    return digest


_Digest = Annotated[str, AfterValidator(_checked_digest)]


class GovernanceConfig(StrictModel):
    """Who may ask, how much, and where that is counted."""

    keys_file: Path | None = None
    """YAML or JSON file of the clients' keys, as `motley route key` writes it. Without it every
    client is let in, without limits, and its own `Authorization` goes on to the replicas."""
    admin_key_file: Path | None = None
    """File of the one key that opens `/admin/` and the adapter commands. Without it they are
    refused, but for adapters where there are no keys either: then the replicas judge them."""
    usage_file: Path = Path("usage.sqlite")
    """SQLite file of what each key has used, relative to the working directory; beside it the
    counts of the limits, `usage.sqlite.limits`. Written where there are keys."""
    assumed_completion_tokens: Tokens = 256
    """What a request that states no `max_tokens` is taken to generate until its usage is known."""
    on_store_failure: Literal["serve", "refuse"] = "serve"
    """While usage cannot be written: go on, the limits still holding, or answer 503. Either way it
    is logged and counted, and what could not be written is kept in memory."""
    store_prompts: Path | None = None
    """File, readable by its owner alone, that gets the messages of every request. Without it no
    prompt is kept anywhere."""

    @property
    def refuses_unwritten(self) -> bool:
        """Return whether nothing is served while usage cannot be written."""
        return self.on_store_failure == "refuse"


class BudgetConfig(StrictModel):
    """What may be used up in one period; at its end (UTC) the count begins again."""

    per: Period
    """A calendar day or month, or `total`: for good."""
    usd: Annotated[Number, Field(gt=0)] | None = None
    """By the models' prices; this or `tokens`."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompt and completion together."""

    @model_validator(mode="after")
    def _check_one_unit(self) -> Self:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError(f"usd is {self.usd}, tokens {self.tokens}; give one of them")
        return self


class KeyConfig(StrictModel):
    """One client's key and what it may do."""

    name: TenantName
    """Stands in logs and metrics in place of the key; letters, digits and `._@-`."""
    sha256: _Digest | None = None
    """SHA-256 of the key in hexadecimal digits; this or `key_file`."""
    key_file: Path | None = None
    """File whose first line is the key itself; only its owner may read it."""
    models: tuple[str, ...] | None = None
    """Models it may use, by name or, ending in `*`, by beginning; without it all."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """The most in any 60 seconds."""
    tokens_per_minute: Tokens | None = None
    """Prompt and completion together, the most in any 60 seconds."""
    budgets: tuple[BudgetConfig, ...] = ()
    """All of them hold."""

    @model_validator(mode="after")
    def _check_one_key(self) -> Self:
        if (self.sha256 is None) == (self.key_file is None):
            raise ValueError(f"key {self.name!r} needs one of sha256 and key_file; give one")
        return self


class KeysFile(StrictModel):
    """The file of keys."""

    schema_version: Literal[1] = 1
    keys: tuple[KeyConfig, ...]
    """One a client; an empty list lets nobody in."""

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names: set[str] = set()
        digests: dict[str, str] = {}
        for place, key in enumerate(self.keys):
            if key.name in names:
                raise ValueError(f"keys.{place}.name: {key.name!r} appears twice; rename one")
            names.add(key.name)
            if key.sha256 is None:
                continue
            if key.sha256 in digests:
                owner = digests[key.sha256]
                raise ValueError(f"keys.{place}.sha256: is the key of {owner!r}; make another")
            digests[key.sha256] = key.name
        return self
