"""One transformers decoder on one device, run over flat batches of many sequences.

Shape letters: T rows of the batch, N rows whose logits are wanted, V vocabulary.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from planner.errors import DocumentError
from planner.model_folder import incomplete_weights, weights_sha256
from serving.engine.adapters import (
    AdaptedLinear,
    Adapter,
    AdapterRows,
    adaptable_linears,
    read_adapter,
)
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.kernels import Quantization
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_decoder import LeanDecoder, is_supported
from serving.engine.mapped_weights import dropping_pages
from serving.engine.packing import replace_linears
from serving.engine.rows import FlatRows, Rows, lay_flat
from serving.engine.split import Offload, Split, kv_layer_bytes_per_token, offload_layers
from serving.engine.transfer import upload
from serving.errors import ModelError

logger = logging.getLogger(__name__)


_CHECK_TOKENS = 12
_CHECK_FRACTION = 1e-3
_COARSE_CHECK_FRACTION = 0.1
_NARROWED_CHECK_FRACTION = 0.5
"""How far logits may be off at the start-up check, in their standard deviations: in float32, in the
coarser types, and where layers were rounded to one."""


class TokenModel(Protocol):
    """What a drafter asks of a model; tests put tables of probabilities behind it."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence the model was made for."""

    def forward(self, batch: Sequence[Rows], ids_T: Tensor | None = None) -> Tensor:
        """Return logits of the wanted rows; write keys and values without committing them.

        `ids_T` are the rows' token ids where they are on the model's device already.
        """


class TargetModel(TokenModel, Protocol):
    """What the engine asks of the model it serves."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids the model knows, padding of its embedding included."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory one cached token takes over all layers, in bytes."""

    def forward_with_features(self, batch: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """As `forward`; also return every row's last hidden state, as the head reads it. (T, E)."""

    def read_adapter(self, folder: Path) -> Adapter:
        """Read a LoRA folder for this model."""


class FlatModel:
    """A decoder whose forward takes ragged rows of many sequences at once."""

    def __init__(
        self, model: PreTrainedModel, *, folder: Path | None = None, may_be_lean: bool = True
    ) -> None:
        """Take a model that was built with the flat attention.

        Args:
            model: The decoder.
            folder: Where it came from.
            may_be_lean: Leave transformers' forward out where the model allows it.
        """
        self.model = model
        self.model.train(False)
        self.device = model.device
        self.config: PretrainedConfig = model.config
        self._folder = folder
        self._digest: str | None = None
        self._current = AdapterRows([])
        self.output_weight: Tensor | None = None
        """The head's dense weight where `load` was asked to keep it. Shape: (V, E)."""
        self.split: Split | None = None
        """The part on another device than `device`, which is that of the rest."""
        self._may_be_lean = may_be_lean
        self._lean_decoder: LeanDecoder | None = None
        self.take_modules()

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str,
        dtype: torch.dtype,
        quantization: Quantization | None = None,
        keeps_output_weight: bool = False,
        offload: Offload | None = None,
    ) -> "FlatModel":
        """Load a local folder or a hub id onto `device`.

        With `quantization` its linears are packed for a processor; `dtype` must then be float32.
        `keeps_output_weight` keeps the dense weight of the head besides, for a drafter that reads it.
        With `offload` its first layers go to a GPU, in a type of their own and never packed.

        Raises:
            ModelError: If there is no such model, its files are malformed, it is no decoder the
                engine can run, or the device does not exist.
        """
        folder = _local_folder(name)
        try:
            _refuse_unsupported(AutoConfig.from_pretrained(name), name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation=FLAT_ATTENTION,
                device_map={"": device},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, with their names
            )
        except (
            OSError,
            ValueError,
            KeyError,
            RuntimeError,
            AssertionError,
            NotImplementedError,
            SafetensorError,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{name}: cannot be loaded on {device} ({reason}); check model and device"
            ) from error
        model, report = loaded  # what loading information adds to the library's declared type
        _refuse_incomplete(report, name)
        if model.device.type == "meta":
            raise ModelError(f"{name}: device {device!r} computes nothing; name a real one")
        flat = cls(model, folder=folder)
        with dropping_pages(model):
            flat.check(name)
        if keeps_output_weight:
            flat.output_weight = model.get_output_embeddings().weight.detach()
        if offload is not None:
            flat._offload(offload, name)
        if quantization is not None:
            flat._pack(quantization)
        logger.info("forward path=%s model=%s", flat.path, name)
        return flat

    def _pack(self, quantization: Quantization) -> None:
        self._lean_decoder = None  # keeps every dense weight alive
        replace_linears(self.model, quantization)
        self.take_modules()

    def take_modules(self) -> None:
        """Take the model's modules as they are now; to be called when some were replaced."""
        is_lean = self._may_be_lean and is_supported(self.model)
        self._lean_decoder = LeanDecoder(self.model) if is_lean else None

    @property
    def _lean(self) -> LeanDecoder | None:
        """What runs a forward; None where transformers' own does.

        What crosses between two devices is moved by hooks that only transformers' forward runs.
        """
        return self._lean_decoder if self.split is None else None

    @property
    def row_functions(self) -> Mapping[str, tuple[Callable[[Tensor], Tensor], int]]:
        """What a forward computes row by row besides the model's modules, with the rows' widths."""
        return {} if self._lean is None else self._lean.row_functions

    @property
    def path(self) -> str:
        """What runs the decoder's layers: `lean` or `transformers`."""
        return "transformers" if self._lean is None else "lean"

    def check(self, name: str) -> None:
        """Check on a few tokens that flat attention computes what the model's own does.

        A model with recurrent state, attention biases or sinks loads like any other and would
        answer nonsense.

        Raises:
            ModelError: If logits differ, whole or in two chunks, or the model cannot run.
        """
        tokens = [index % self.vocabulary_size for index in range(3, 3 + _CHECK_TOKENS)]
        try:
            own_NV = self._own_logits(tokens)
            pool = KVPool(2)
            whole_NV = self.forward([Rows(tokens, SequenceCache(pool), len(tokens))])
            cache = SequenceCache(pool)
            half = _CHECK_TOKENS // 2
            first_NV = self.forward([Rows(tokens[:half], cache, half)])
            cache.commit(half)
            rest_NV = self.forward([Rows(tokens[half:], cache, len(tokens) - half)])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ModelError(f"{name}: this engine cannot run it ({reason})") from error
        if pool.num_layers != self.config.num_hidden_layers:
            raise ModelError(
                f"{name}: only {pool.num_layers} of its {self.config.num_hidden_layers} layers are "
                f"attention this engine can run ({self.config.model_type}); use another engine"
            )
        for flat_NV in (whole_NV, torch.cat([first_NV, rest_NV])):
            fraction = (
                _CHECK_FRACTION if self.model.dtype == torch.float32 else _COARSE_CHECK_FRACTION
            )
            difference = _excess(flat_NV, own_NV, fraction)
            if difference is not None:
                raise ModelError(
                    f"{name}: this engine cannot run {self.config.model_type} models (logits are "
                    f"off by {difference:.2g}); serve it with another engine"
                )

    def _offload(self, offload: Offload, name: str) -> None:
        """Move the first layers to a GPU and check that the logits stay what they were."""
        tokens = [index % self.vocabulary_size for index in range(3, 3 + _CHECK_TOKENS)]

        def logits() -> Tensor:
            return self.forward([Rows(tokens, SequenceCache(KVPool(1)), len(tokens))])

        before_NV = logits()
        try:
            self.split = offload_layers(self.model, offload, name)
            after_NV = logits()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise ModelError(
                f"{name}: its first layers cannot run on {offload.device} ({reason}); ask for fewer "
                "--target-gpu-layers or drop the option"
            ) from error
        is_wide = offload.dtype.itemsize >= torch.float32.itemsize
        fraction = _CHECK_FRACTION if is_wide else _NARROWED_CHECK_FRACTION
        difference = _excess(after_NV, before_NV, fraction)
        if difference is not None:
            raise ModelError(
                f"{name}: logits are off by {difference:.2g} with layers on {offload.device} in "
                f"{offload.dtype}; drop --target-gpu-layers or choose float32"
            )

    @torch.inference_mode()
    def _own_logits(self, tokens: list[int]) -> Tensor:
        self.model.set_attn_implementation("eager")
        try:
            ids = torch.tensor([tokens], device=self.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            self.model.set_attn_implementation(FLAT_ATTENTION)
        return logits

    @property
    def context_tokens(self) -> int:
        """Longest sequence the model was made for."""
        return int(self.config.max_position_embeddings)

    @property
    def vocabulary_size(self) -> int:
        """Token ids the model knows, padding of its embedding included."""
        return int(self.config.vocab_size)

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory one cached token takes over all layers, in bytes."""
        num_layers = int(self.config.num_hidden_layers)
        if self.split is None:
            return num_layers * kv_layer_bytes_per_token(self.config, self.model.dtype)
        return self.split.kv_bytes_per_token(self.config)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows], ids_T: Tensor | None = None) -> Tensor:
        """Run every sequence's new rows in one forward; keys and values land in the caches.

        Nothing is committed: the caller decides which rows stay.

        Args:
            batch: Rows by sequence; at least one token each.
            ids_T: Their token ids where the device has them already; those in `batch` then only
                count. Shape: (T,).

        Returns:
            Logits of the wanted rows, in order. Shape: (N, V).
        """
        flat = self._lay_flat(batch)
        if (lean := self._lean) is not None:
            return lean.run(flat, ids_T)[0]
        ids_T = upload(flat.tokens, self.device) if ids_T is None else ids_T
        output = self.model(
            input_ids=ids_T[None],
            position_ids=upload(flat.positions, self.device)[None],
            use_cache=False,
            logits_to_keep=0 if flat.wants_all else upload(flat.wanted, self.device),
            spans=flat.spans,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _lay_flat(self, batch: Sequence[Rows]) -> FlatRows:
        """Lay the batch flat, and say which rows use which adapter."""
        flat = lay_flat(batch)
        self._current.rows[:] = [
            (slice(span.start, span.stop), rows.adapter)
            for rows, span in zip(batch, flat.spans, strict=True)
            if rows.adapter is not None
        ]
        return flat

    @torch.inference_mode()
    def forward_with_features(self, batch: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """As `forward`, with the features of all rows: last hidden states behind the final norm.

        Returns:
            Logits of the wanted rows and features of every row. Shapes: (N, V), (T, E).
        """
        if (lean := self._lean) is not None:
            logits_NV, hidden_TE = lean.run(self._lay_flat(batch))
            return logits_NV, lean.features(hidden_TE)
        states: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(
            lambda _module, _inputs, output: states.append(output.last_hidden_state[0])
        )
        try:
            logits_NV = self.forward(batch)
        finally:
            hook.remove()
        return logits_NV, states[0]

    def read_adapter(self, folder: Path) -> Adapter:
        """Read a LoRA folder for this model and make its layers take adapters.

        Raises:
            AdapterError: If the adapter does not fit.
        """
        adapter = read_adapter(folder, self.model, base_sha256=self._weights_sha256)
        linears = adaptable_linears(self.model)
        for name in adapter:
            if not isinstance(self.model.get_submodule(name), AdaptedLinear):
                self._replace(name, AdaptedLinear(linears[name], name, self._current))
        self.take_modules()
        return adapter

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)

    def _weights_sha256(self) -> str | None:
        """Return the digest of the base weights, computed once; None where there is none."""
        if self._digest is None and self._folder is not None:
            try:
                self._digest = weights_sha256(self._folder)
            except DocumentError as error:
                logger.warning("adapters are not checked against the base model: %s", error)
        return self._digest


def _excess(found_NV: Tensor, expected_NV: Tensor, most_fraction: float) -> float | None:
    """Return how far logits are off where that is above a fraction of their standard deviation."""
    difference = float((found_NV.float() - expected_NV.float()).abs().max())
    return None if difference <= most_fraction * float(expected_NV.float().std()) else difference


def _local_folder(name: str) -> Path | None:
    """Return the folder of that name; None where it may be a hub id."""
    if name and Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise ModelError(f"{name!r}: no such model folder; give a local folder or a hub id")
    return None


def _refuse_unsupported(config: PretrainedConfig, name: str) -> None:
    if config.is_encoder_decoder:
        raise ModelError(f"{name}: is an encoder-decoder ({config.model_type}); name a decoder")


def _refuse_incomplete(report: Mapping[str, Any], name: str) -> None:
    """Refuse weights that transformers would make up: what lacks or has another shape is random."""
    if wrong := incomplete_weights(report):
        raise ModelError(f"{name}: its weights are not whole: {wrong}; fetch the model again")
    if unknown := sorted(report["unexpected_keys"]):
        logger.warning("weights left out model=%s num=%d first=%s", name, len(unknown), unknown[0])
