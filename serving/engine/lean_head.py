"""A Dovetail head in few, large operations: what drafts with the weights `DovetailHead` trained.

A step of a small head costs its operations rather than their size: queries, keys and values come
from one product, gate and up from another, norms' weights are folded into the products behind them,
and where the vocabulary is small everything that depends on the token alone is looked up.

Shape letters: S sequences, N rows of one sequence, T rows of the batch, L rows in the cache, E the
target's hidden size, V vocabulary, W the head's width, H query heads, G key-value heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.engine.dovetail_head import DovetailHead, HeadLayer, rotations
from serving.engine.head_cache import HeadCache
from serving.engine.head_rows import HeadOutput, HeadRows, mask, positions

MOST_TABLE_BYTES = 64 * 2**20
"""Largest look-up table of what depends on the token alone; beyond it that is computed a step."""
MOST_DEPTH = 64
"""Deepest tree; the last rounds of a sequence may draft past the end of the context."""
MOST_COPY_BYTES = 64 * 2**20
"""Largest weight of the target that is copied to have it transposed; larger ones stay shared."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights: inputs fused with the norm folded in; all transposed, see `_transposed`."""

    query_key_value: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor


class LeanHead:
    """Runs a head's weights over the rows of many sequences."""

    def __init__(self, head: DovetailHead, *, embedding: Tensor, output_head: Tensor) -> None:
        """Fuse the weights of `head`, which says where and in which type it runs.

        Args:
            head: The trained head, on the draft's device.
            embedding: The target's embedding. Shape: (V, E).
            output_head: The weight of the target's head. Shape: (V, E). Both are shared where they
                are of the head's device and type already, and copied where not; a small output
                head is copied, transposed, for speed.
        """
        weight = head.fusion.feature.weight
        self.config = head.config
        self.device, self.dtype = weight.device, weight.dtype
        self._embedding = embedding.detach().to(self.device, self.dtype)
        output_weight = output_head.detach().to(self.device, self.dtype)
        is_small = output_weight.nbytes <= MOST_COPY_BYTES
        self._output_head = _transposed(output_weight) if is_small else output_weight.T
        self._widen = _transposed(head.widen.weight) if isinstance(head.widen, nn.Linear) else None
        self._layers = [_fuse(layer) for layer in head.layers if isinstance(layer, HeadLayer)]
        self._num_rotated = self.config.num_heads + self.config.num_key_value_heads
        self._rotations = _rotation_table(head).to(self.dtype)
        self._fuse_gating(head)

    @property
    def context_tokens(self) -> int:
        """Longest sequence the head was made for."""
        return self.config.context_tokens

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory one row takes in a `HeadCache`, in bytes."""
        config = self.config
        values = 2 * config.num_layers * config.num_key_value_heads * config.head_size
        return values * self.dtype.itemsize

    def new_cache(self, capacity_rows: int, *, first_position: int = 0) -> HeadCache:
        """Return an empty cache for one sequence, see `HeadCache`."""
        return HeadCache(
            capacity_rows,
            shape=(self.config.num_layers, self.config.num_key_value_heads, self.config.head_size),
            device=self.device,
            dtype=self.dtype,
            first_position=first_position,
        )

    @torch.inference_mode()
    def prefill(self, batch: Sequence[HeadRows]) -> HeadOutput:
        """Take in verified rows, with the target's true features; they stay in the caches.

        The same for the prompt, a chunk of it, and the tokens a round accepted. Tree rows of the
        round before are dropped first.

        Args:
            batch: Verified rows by sequence, at least one each.

        Returns:
            What the head says behind each sequence's last row. Shapes: (S, E), (S, V).
        """
        for rows in batch:
            rows.cache.drop_tree()
        hidden_TW = self._forward(batch)
        last = []
        stop = 0
        for rows in batch:
            stop += len(rows.tokens)
            last.append(stop - 1)
            rows.cache.commit()
        return self._read(hidden_TW if stop == len(batch) else hidden_TW[last])

    @torch.inference_mode()
    def step(self, batch: Sequence[HeadRows]) -> HeadOutput:
        """Take in one level of each sequence's tree, every row with its parent's predicted feature.

        Args:
            batch: Tree rows by sequence, with `depths`.

        Returns:
            What the head says behind every row, in order. Shapes: (T, E), (T, V).
        """
        return self._read(self._forward(batch))

    def _forward(self, batch: Sequence[HeadRows]) -> Tensor:
        tokens = [token for rows in batch for token in rows.tokens]
        places = [place for rows in batch for place in positions(rows)]
        features = [rows.features_NE for rows in batch]
        features_TE = features[0] if len(batch) == 1 else torch.cat(features)
        # True features come from the target's device in one copy, in its type; our own are here.
        features_TE = features_TE.to(self.device, self.dtype)
        masks = [mask(rows, self.device) for rows in batch]
        hidden_TW = self._fused(features_TE, tokens)
        cosine, sine = self._rows_of(self._rotations, places).unbind(1)
        for number, layer in enumerate(self._layers):
            rows_TW = self._normalise(hidden_TW) if number else hidden_TW
            mixed = rows_TW @ layer.query_key_value
            heads_THD = mixed.view(len(tokens), -1, self.config.head_size)
            plain = heads_THD[:, : self._num_rotated]
            half = self.config.head_size // 2
            rotated = torch.addcmul(plain * cosine, plain.roll(half, -1), sine)
            attended = self._attend(number, rotated, heads_THD, batch, masks)
            hidden_TW = torch.addmm(hidden_TW, attended, layer.output)
            gate_up = self._normalise(hidden_TW) @ layer.gate_up
            gate, up = gate_up.chunk(2, dim=-1)
            hidden_TW = torch.addmm(hidden_TW, functional.silu(gate) * up, layer.down)
        for rows in batch:
            rows.cache.count_written(len(rows.tokens))
        return hidden_TW

    def _fused(self, features_TE: Tensor, tokens: list[int]) -> Tensor:
        """Return the gating fusion; see `GatedFusion` for the formula. Shape: (T, W)."""
        if self._token_table is None:
            token_side = self._token_side(self._rows_of(self._embedding, tokens))
        else:
            token_side = self._rows_of(self._token_table, tokens)
        width = self.config.width
        feature_side = features_TE @ self._feature_weight
        gate = torch.sigmoid(feature_side[:, width:] + token_side[:, width:])
        return torch.lerp(token_side[:, :width], feature_side[:, :width], gate)

    def _rows_of(self, table: Tensor, index: list[int]) -> Tensor:
        """Return rows of a table; a single one is a view, which spares two operations."""
        if len(index) == 1:
            return table[index[0] : index[0] + 1]
        return table[torch.tensor(index, device=self.device)]

    def _attend(
        self,
        number: int,
        rotated: Tensor,
        heads_THD: Tensor,
        batch: Sequence[HeadRows],
        masks: list[Tensor | None],
    ) -> Tensor:
        outputs = []
        start, num_heads = 0, self.config.num_heads
        for rows, mask_NL in zip(batch, masks, strict=True):
            stop = start + len(rows.tokens)
            keys_GLD, values_GLD = rows.cache.write(
                number,
                rotated[start:stop, num_heads:].transpose(0, 1),
                heads_THD[start:stop, self._num_rotated :].transpose(0, 1),
            )
            queries_NHD = rotated[start:stop, :num_heads]
            outputs.append(_attended(queries_NHD, keys_GLD, values_GLD, mask_NL))
            start = stop
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _read(self, hidden_TW: Tensor) -> HeadOutput:
        """Return features and logits; there is no norm before the target's head."""
        features = hidden_TW if self._widen is None else hidden_TW @ self._widen
        return HeadOutput(features, features @ self._output_head)

    def _normalise(self, hidden_TW: Tensor) -> Tensor:
        return functional.rms_norm(hidden_TW, (self.config.width,), None, self.config.norm_epsilon)

    @torch.inference_mode()
    def _fuse_gating(self, head: DovetailHead) -> None:
        """Split the gate's product into what the feature and what the token brings."""
        fusion, width = head.fusion, self.config.width
        gate_feature, gate_embedding = torch.split(fusion.gate.weight, width, dim=1)
        self._feature_weight = _transposed(
            torch.cat((fusion.feature.weight, gate_feature @ fusion.feature.weight))
        )
        self._embedding_weight = fusion.embedding.weight * fusion.embedding_norm.weight
        self._gate_weight = gate_embedding.clone()
        self._token_table: Tensor | None = None
        table_bytes = len(self._embedding) * 2 * width * self.dtype.itemsize
        if table_bytes <= MOST_TABLE_BYTES:
            self._token_table = self._token_side(self._embedding)

    def _token_side(self, embeddings_TE: Tensor) -> Tensor:
        """Return the token's part of the fusion and of its gate. Shape: (T, 2 W)."""
        normal = functional.rms_norm(
            embeddings_TE, (self.config.feature_size,), None, self.config.norm_epsilon
        )
        part = functional.silu(functional.linear(normal, self._embedding_weight))
        return torch.cat((part, functional.linear(part, self._gate_weight)), dim=-1)


def _attended(
    queries_NHD: Tensor, keys_GLD: Tensor, values_GLD: Tensor, mask_NL: Tensor | None
) -> Tensor:
    """Attend from one sequence's rows. Shape: (N, H * D), heads side by side."""
    rows, heads, size = queries_NHD.shape
    keys, values = keys_GLD.unsqueeze(0), values_GLD.unsqueeze(0)
    if rows == 1 and mask_NL is None:
        # Heads that share keys are rows of one query, so that no key is copied.
        queries = queries_NHD.view(1, len(keys_GLD), -1, size)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        return mixed.reshape(1, heads * size)
    mixed = functional.scaled_dot_product_attention(
        queries_NHD.transpose(0, 1).unsqueeze(0), keys, values, attn_mask=mask_NL, enable_gqa=True
    )
    return mixed.transpose(1, 2).reshape(rows, -1)


def _rotation_table(head: DovetailHead) -> Tensor:
    """Return cosine and signed sine by position. Shape: (positions, 2, 1, D).

    Rotating by halves is a roll whose first half changes sign; the sign lives in the table.
    """
    config = head.config
    device = head.fusion.feature.weight.device
    cosine, sine = rotations(config, config.context_tokens + MOST_DEPTH, device)
    half = config.head_size // 2
    signed = torch.cat((-sine[:, :half], sine[:, half:]), dim=-1)
    return torch.stack((cosine, signed), dim=1).unsqueeze(2)


def _transposed(weight_OI: Tensor) -> Tensor:
    """Return the weight as (I, O): on a processor a few rows are multiplied fastest by this order."""
    return weight_OI.detach().T.contiguous()


@torch.inference_mode()
def _fuse(layer: HeadLayer) -> _Layer:
    incoming = torch.cat([layer.query.weight, layer.key.weight, layer.value.weight])
    if isinstance(layer.input_norm, nn.RMSNorm):
        incoming = incoming * layer.input_norm.weight
    gate_up = torch.cat([layer.gate.weight, layer.up.weight])
    return _Layer(
        query_key_value=_transposed(incoming),
        output=_transposed(layer.output.weight),
        gate_up=_transposed(gate_up * layer.feed_forward_norm.weight),
        down=_transposed(layer.down.weight),
    )
