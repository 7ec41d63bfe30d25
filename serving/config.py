"""What `motley serve` was asked to do, as one frozen value."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel

MOST_DRAFT_NODES = 63
"""Nodes of a tree: with its root's place as many rows as attention takes in a tree."""

MOST_PLANNED_DEPTH = 8
"""Tokens that are drafted one behind the other at most where the number is planned."""


class DraftTreeShape(StrictModel):
    """How wide and how large dynamic draft trees grow."""

    beam_width: int = Field(ge=1)
    """Nodes that are looked behind at each depth, and children offered of each."""
    num_nodes: int = Field(ge=1, le=MOST_DRAFT_NODES)
    """Likeliest nodes of all depths that the target verifies."""


class ServeConfig(StrictModel):
    """A model, its draft, where each runs, and the limits."""

    model: str
    """Local folder or hub id of the target."""
    draft: str | None = None
    """Local folder or hub id of the drafting model, or the folder of a head made for the target;
    None decodes one token a step."""
    target_device: str = "cpu"
    """Device of the target, in torch's notation."""
    draft_device: str = "cpu"
    """Device of the draft, in torch's notation; auto measures it on each and takes the best."""
    drafter: Literal["model", "ngram", "none"] = Field(
        default_factory=lambda fields: "none" if fields.get("draft") is None else "model"
    )
    """What guesses ahead: the draft model, the sequence's own text, or nothing; by default the
    draft model where there is one."""
    draft_tokens: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """Tokens drafted in one round, one behind the other; with a tree, its depth. Auto plans them
    from costs measured at start and acceptance, for each load anew: from none to 8."""
    draft_tree: DraftTreeShape | None = None
    """Trees of the draft model instead of chains; None drafts chains."""
    pre_draft: Literal["auto", "on", "off"] = "auto"
    """Whether chains are drafted ahead while the target verifies; auto does where draft and target
    share no device, and so no cores."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights of target and draft; auto is float32 on a CPU and bfloat16 elsewhere."""
    target_quantization: Literal["auto", "float32", "bfloat16", "int8", "int4"] = "auto"
    """How the target's linears store their weights on a CPU; auto packs float32 weights and leaves
    other types and devices as they are."""
    target_gpu_layers: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """First decoder layers of a CPU target that run on a GPU, with the embedding and their share of
    keys and values; auto is as many as fit."""
    target_gpu_device: str = "cuda"
    """Where they run, in torch's notation."""
    target_gpu_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Their weights; auto is the target's own type. A 16-bit type takes half the memory and rounds."""
    served_model_name: str
    """Name that clients ask for."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, named in the log."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one forward; None is torch's choice."""
    kv_bytes: int = Field(default=1 << 30, gt=0)
    """Memory for the target's keys and values, in bytes."""
    max_sequences: int = Field(default=16, ge=1)
    """Requests that run at once."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests that wait; one more is refused with status 429."""

    @property
    def most_draft_depth(self) -> int:
        """Most guesses of one round one behind the other."""
        return MOST_PLANNED_DEPTH if self.draft_tokens == "auto" else self.draft_tokens

    @property
    def num_draft_nodes(self) -> int:
        """Most guesses of one round and sequence that the target verifies."""
        if self.drafter == "none":
            return 0
        return self.most_draft_depth if self.draft_tree is None else self.draft_tree.num_nodes

    @model_validator(mode="after")
    def _draft_with_what_there_is(self) -> Self:
        if self.drafter == "model" and self.draft is None:
            raise ValueError("drafter model needs a draft; name one, or choose ngram or none")
        if self.drafter == "ngram" and self.draft is not None:
            raise ValueError(f"drafter ngram does not use draft {self.draft}; drop one of the two")
        if self.draft_tree is None or self.drafter == "none":
            return self
        if self.drafter != "model":
            raise ValueError(f"draft_tree is for drafter model, not {self.drafter}; drop one")
        num_rows = self.draft_tree.beam_width * (self.most_draft_depth - 1)
        if num_rows > MOST_DRAFT_NODES + 1:
            raise ValueError(
                f"draft_tree of beam {self.draft_tree.beam_width} and draft_tokens "
                f"{self.most_draft_depth} makes {num_rows} rows of the draft, above "
                f"{MOST_DRAFT_NODES + 1}; narrow the beam or draft fewer tokens ahead"
            )
        return self

    @model_validator(mode="after")
    def _draft_ahead_in_chains(self) -> Self:
        if self.pre_draft == "on" and (self.drafter != "model" or self.draft_tree is not None):
            what = self.drafter if self.draft_tree is None else "trees"
            raise ValueError(
                f"pre_draft on is for chains of a draft model or head, not for {what}; leave it at "
                "auto, or drop draft_tree or drafter"
            )
        return self

    @model_validator(mode="after")
    def _split_a_target_on_a_cpu(self) -> Self:
        if self.target_gpu_layers != 0 and not self.target_device.startswith("cpu"):
            raise ValueError(
                f"target_gpu_layers {self.target_gpu_layers} splits a target on a CPU, not on "
                f"target_device {self.target_device}; drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _quantize_float32_on_a_cpu(self) -> Self:
        is_packable = self.target_device.startswith("cpu") and self.dtype in ("auto", "float32")
        if self.target_quantization != "auto" and not is_packable:
            raise ValueError(
                f"target_quantization {self.target_quantization} is for a CPU and float32 rows, not "
                f"for target_device {self.target_device} with dtype {self.dtype}; drop one of them"
            )
        return self
