"""Builds the engine a configuration asks for: runs in the engine's process."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from serving.config import ServeConfig
from serving.draft_head import make_head_drafter, torch_dtype
from serving.drafting import draft_ahead, draft_device, plan_drafting
from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.attention_check import attention_is_row_invariant
from serving.engine.drafter import Drafter
from serving.engine.engine import UNTESTED_GUARANTEE, Engine, EngineLimits
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.head_folder import is_head_folder
from serving.engine.huge_pages import WORTHWHILE_BYTES, collapse
from serving.engine.invariance import check_model
from serving.engine.kernels import Quantization
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter, leanest
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.packing import packed_linears
from serving.engine.tree_drafter import TreeDrafter
from serving.engine_host import HostedEngine
from serving.errors import ModelError
from serving.gpu_memory import find_offload
from serving.tokenizer import load_tokenizer, quieten_transformers

logger = logging.getLogger(__name__)

_MAX_PREFILL_ROWS = 512
"""Prompt tokens of one step."""


def load_hosted(config: ServeConfig) -> HostedEngine:
    """Load target, draft and tokenizer in the engine's process.

    Raises:
        ModelError: If one cannot be loaded or draft and target do not share a vocabulary.
    """
    quieten_transformers()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    engine, tokenizer = build_engine(config)
    return HostedEngine(engine, tokenizer.backend_tokenizer.to_str())


def build_engine(config: ServeConfig) -> tuple[Engine, PreTrainedTokenizerBase]:
    """Load target, draft and tokenizer.

    Raises:
        ModelError: If one cannot be loaded or draft and target do not share a vocabulary.
    """
    _check_memory(config)
    target, guarantee = _load_target(config)
    tokenizer = load_tokenizer(config.model)
    device = draft_device(config, target, _draft_loader(config))
    drafter = draft_ahead(config, _make_drafter(config, tokenizer, target, device), device)
    limits = EngineLimits(
        kv_bytes=config.kv_bytes,
        max_sequences=config.max_sequences,
        max_waiting=config.max_waiting,
        max_prefill_rows=_MAX_PREFILL_ROWS,
    )
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=config.num_draft_nodes,
        limits=limits,
        eos_ids=_eos_ids(target),
        guarantee=guarantee,
        drafting=plan_drafting(config, target, drafter, device),
    )
    if drafter and drafter.context_tokens and drafter.context_tokens < target.context_tokens:
        logger.warning(
            "the draft's context bounds every request draft_context_tokens=%d "
            "target_context_tokens=%d",
            drafter.context_tokens,
            target.context_tokens,
        )
    logger.info(
        "loaded target=%s target_device=%s drafter=%s draft=%s draft_device=%s draft_tokens=%s "
        "context_tokens=%d guarantee=%s",
        config.model,
        config.target_device,
        config.drafter,
        config.draft,
        device,
        config.draft_tokens if drafter else 0,
        engine.context_tokens,
        guarantee,
    )
    return engine, tokenizer


def _check_memory(config: ServeConfig) -> None:
    """Refuse keys and values that this machine cannot hold; their memory is taken only at first use.

    Raises:
        ModelError: If they need more than all there is.
    """
    if not config.target_device.startswith("cpu"):
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.kv_bytes >= total:
        gibibytes = config.kv_bytes / 2**30, total / 2**30
        raise ModelError(
            "KV memory of {:.1f} GiB is more than this machine has ({:.1f} GiB, weights included); "
            "give less --kv-memory".format(*gibibytes)
        )


def _draft_loader(config: ServeConfig) -> Callable[[str], FlatModel] | None:
    """Return what loads the draft model onto a device; None where nothing of its own drafts."""
    if config.draft is None or config.drafter != "model":
        return None
    return lambda device: _load_draft(config, device)


def _make_drafter(
    config: ServeConfig, tokenizer: PreTrainedTokenizerBase, target: FlatModel, device: str
) -> Drafter | None:
    if config.drafter == "none":
        return None
    if config.drafter == "ngram":
        return NgramDrafter()
    assert config.draft is not None, "checked with the configuration"
    if _drafts_with_head(config):
        return make_head_drafter(config, target, device)
    draft = leanest(_load_draft(config, device))
    _check_pair(config, tokenizer)
    if config.draft_tree is None and device != config.target_device:
        return ApartChainDrafter(draft, vocabulary_size=target.vocabulary_size)
    if config.draft_tree is None:
        return ChainDrafter(draft, vocabulary_size=target.vocabulary_size)
    return TreeDrafter(
        draft,
        beam_width=config.draft_tree.beam_width,
        depth=config.most_draft_depth,
        vocabulary_size=target.vocabulary_size,
    )


def _load_draft(config: ServeConfig, device: str) -> FlatModel:
    dtype = torch_dtype(config.dtype, device)
    with _naming_own_attention(str(config.draft)):
        return FlatModel.load(str(config.draft), device=device, dtype=dtype)


@contextmanager
def _naming_own_attention(name: str) -> Iterator[None]:
    """Say so where a model's code picks its attention from a table of its own, which lacks ours.

    Raises:
        ModelError: Names the type of the model.
    """
    try:
        yield
    except ModelError as error:
        cause = error.__cause__
        if not isinstance(cause, KeyError) or FLAT_ATTENTION not in cause.args:
            raise
        kind = AutoConfig.from_pretrained(name).model_type
        raise ModelError(
            f"{name}: {kind} models bring attention of their own, which this engine cannot replace; "
            "use --engine vllm, or another model"
        ) from None


def _drafts_with_head(config: ServeConfig) -> bool:
    return config.drafter == "model" and is_head_folder(Path(str(config.draft)))


def _load_target(config: ServeConfig) -> tuple[FlatModel, str]:
    """Load the target with its linears packed; return it and what drafting may change, in words."""
    is_on_cpu = config.target_device.startswith("cpu")
    quantization: Quantization | None = None
    if config.target_quantization != "auto":
        quantization = config.target_quantization
    elif is_on_cpu and config.dtype in ("auto", "float32"):
        quantization = "float32"
    most_rows = _MAX_PREFILL_ROWS + config.max_sequences * (config.num_draft_nodes + 1)
    dtype = torch_dtype(config.dtype, config.target_device)
    offload = find_offload(config, most_rows=most_rows, dtype=dtype)
    with _naming_own_attention(config.model):
        target = FlatModel.load(
            config.model,
            device=config.target_device,
            dtype=dtype,
            quantization=quantization,
            keeps_output_weight=_drafts_with_head(config),
            offload=offload,
        )
    guarantee = UNTESTED_GUARANTEE
    if quantization is not None:
        weight_bytes = sum(part.weight_bytes for part in packed_linears(target.model).values())
        if weight_bytes >= WORTHWHILE_BYTES:
            collapse()  # before the paddings are timed
        guarantee = check_model(
            target.model,
            most_rows=most_rows,
            intermediate_size=getattr(target.config, "intermediate_size", None),
            functions=target.row_functions,
            others=_attention_checks(target),
        ).name
    return target, guarantee


def _attention_checks(target: FlatModel) -> dict[str, Callable[[], bool]]:
    """Return a test for each device the target attends on."""
    checks = {"attention": lambda: attention_is_row_invariant(target.config)}
    if (split := target.split) is not None:
        checks[f"attention:{split.device}"] = lambda: attention_is_row_invariant(
            target.config, device=split.device, dtype=split.dtype
        )
    return checks


def _check_pair(config: ServeConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    assert config.draft is not None, "called with a draft"
    # Embeddings may be padded to different widths; the tokenizer is what must be shared.
    if load_tokenizer(config.draft).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{config.draft}: its tokenizer differs from the target's; name a draft that shares it"
        )


def _eos_ids(target: FlatModel) -> frozenset[int]:
    ids = target.model.generation_config.eos_token_id
    if ids is None:
        ids = target.config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
