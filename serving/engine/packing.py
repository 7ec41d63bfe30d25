"""Replaces the linears of a loaded model by packed ones, one at a time."""

import logging
from collections import Counter

from torch import nn

from serving.engine.kernels import PackedLinear, Quantization, pack
from serving.engine.mapped_weights import drop_pages
from serving.engine.shared_product import by_product, pack_group

logger = logging.getLogger(__name__)


def replace_linears(model: nn.Module, quantization: Quantization) -> None:
    """Pack every linear of `model`, the LM head included; the embedding stays as it is.

    Each dense weight is let go as soon as it is packed, its pages of a mapped file too, so memory
    never exceeds the dense model and one shared product. A weight that the embedding shares stays
    there; the head's packed copy comes on top.

    Args:
        model: A model on the processor; changed in place.
        quantization: Type of the packed weights. A shape its kernel cannot take gets the next finer
            kernel, which is logged.
    """
    counts: Counter[str] = Counter()
    bytes_read = 0
    # Names only: a list of modules would keep every dense weight alive.
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for group in by_product(model, names):
        denses = [module for module in map(model.get_submodule, group) if type(module) is nn.Linear]
        packs = pack_group(denses, lambda dense: pack(dense, quantization))
        for dense in denses:
            drop_pages(dense.weight)
        del denses
        for name, packed in zip(group, packs, strict=True):
            if not packed.kind.startswith(quantization):
                logger.warning(
                    "kernel replaced layer=%s asked=%s used=%s in_features=%d out_features=%d",
                    name, quantization, packed.kind, packed.in_features, packed.out_features,
                )  # fmt: skip
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)
            counts[packed.kind] += 1
            bytes_read += packed.weight_bytes
    kinds = ",".join(f"{kind}:{count}" for kind, count in sorted(counts.items()))
    logger.info("packed linears=%s weight_bytes=%d", kinds or "none", bytes_read)


def packed_linears(model: nn.Module) -> dict[str, PackedLinear]:
    """Return the packed linears of `model` by name."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)
    }
