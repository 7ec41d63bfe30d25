"""Makes the drafter of a head's folder for a target that is loaded already."""

import logging
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from planner.errors import DocumentError
from planner.model_folder import weights_sha256
from serving.config import ServeConfig
from serving.engine.drafter import Drafter
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_folder import load_head
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel
from serving.errors import ModelError

logger = logging.getLogger(__name__)


def make_head_drafter(config: ServeConfig, target: FlatModel, device: str) -> Drafter:
    """Load the head and join it to the target's embedding and head.

    Its caches hold at most as many rows as the target's KV memory holds tokens.

    Args:
        config: Names the folder and what to draft.
        target: Loaded with `keeps_output_weight`.
        device: Where the head runs.

    Raises:
        ModelError: If it is no sound head, or was made for another target.
    """
    folder = Path(str(config.draft))
    head = load_head(
        folder,
        target_sha256=_digest(config.model),
        device=device,
        dtype=torch_dtype(config.dtype, device),
    )
    embedding: Tensor = target.model.get_input_embeddings().weight  # type: ignore[assignment]
    assert target.output_weight is not None, "the target was loaded with it"
    made_for = head.config.vocabulary_size, head.config.feature_size
    if tuple(target.output_weight.shape) != made_for:
        raise ModelError(
            f"{folder}: was made for {made_for[0]} ids and states of {made_for[1]}, the target has "
            f"{' and '.join(map(str, target.output_weight.shape))}; run `motley serve train-draft`"
        )
    lean = LeanHead(head, embedding=embedding, output_head=target.output_weight)
    most_rows = config.kv_bytes // target.kv_bytes_per_token
    logger.info(
        "draft path=head layers=%d most_rows=%d most_cache_bytes=%d",
        head.config.num_layers,
        most_rows,
        most_rows * lean.cache_bytes_per_token,
    )
    if config.draft_tree is None:
        return HeadChainDrafter(lean, most_rows=most_rows)
    return HeadTreeDrafter(
        lean,
        most_rows=most_rows,
        beam_width=config.draft_tree.beam_width,
        depth=config.most_draft_depth,
    )


def torch_dtype(name: str, device: str) -> torch.dtype:
    """Return the type of that name; auto is float32 on a processor and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if device.startswith("cpu") else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _digest(model: str) -> str | None:
    """Return the digest of the target's files; None, with a warning, where there is none."""
    try:
        return weights_sha256(Path(str(cached_file(model, "config.json"))).parent)
    except (OSError, DocumentError) as error:
        logger.warning("draft head is not checked against its target: %s", error)
        return None
