"""Writes a folder of a Llama in float32 as GGUF for llama.cpp; runs in llama.cpp's environment.

Every matrix gets the asked type where its rows are whole blocks of it, else float32, as llama.cpp's
`--pure` quantisation does. No tokenizer goes in: benchmarks speak token ids.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quants,
)
from safetensors import safe_open

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}
BLOCK_INPUTS = 32


def main(folder: Path, kind: str, path: Path) -> None:
    """Write `folder` as `path` with matrices of type `kind`."""
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, "llama")
    _describe(writer, config, kind)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - a file of tensors, no mapping
            array = file.get_tensor(name).astype(np.float32)
            for part, num_heads in heads.items():
                if part in name:
                    array = _interleaved(array, num_heads)
            raw_type = GGMLQuantizationType[kind]
            if array.ndim == 1 or array.shape[-1] % BLOCK_INPUTS:
                raw_type = GGMLQuantizationType.F32
            ours = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(ours, quants.quantize(array, raw_type), raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: GGUFWriter, config: dict[str, Any], kind: str) -> None:
    rope = config.get("rope_parameters") or config
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(FILE_TYPES[kind])


def _interleaved(weight: "np.ndarray[Any, Any]", num_heads: int) -> "np.ndarray[Any, Any]":
    """Reorder rows from transformers' rotary halves to llama.cpp's rotary pairs."""
    size = weight.shape[0] // num_heads
    halves = weight.reshape(num_heads, 2, size // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
