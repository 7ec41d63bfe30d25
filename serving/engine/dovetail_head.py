"""Dovetail's draft head: drafts from the target's own last hidden states.

Row i of a sequence takes the target's feature of token i (its last hidden state after the final
norm) and the embedding of token i + 1, and says what the feature of token i + 1 will be; the target's
frozen head turns that into the distribution of token i + 2. Where no true feature is known yet the
head takes the one it predicted itself.

This is the module that trains; `LeanHead` runs the same weights while drafting.

Source: Zhang et al., "Dovetail" (2025, arXiv 2412.18934), section 3: the gating fusion and the draft
body. Drafting several tokens deep during training, each row's chain attending to true rows before it
and to its own rows, follows Zhang et al., "Learning Harmonized Representations for Speculative
Sampling" (2024, arXiv 2408.15766), section 3.2.

Shape letters: B sequences, N rows, M rows of the first depth, E the target's hidden size, W the
head's width, H query heads, G key-value heads, D head size.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.engine.head_config import HeadConfig

KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values of one layer by depth, the first depth's first. Shape: (B, H, N, D) each."""


class HeadNorm(nn.RMSNorm):
    """A root-mean-square norm that computes in its weight's type, under autocast too."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        """Make the norm with weight 1."""
        super().__init__(width, eps=config.norm_epsilon)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows, in the weight's type."""
        normal: Tensor = super().forward(rows.to(self.weight.dtype))
        return normal


class GatedFusion(nn.Module):
    """Dynamic gating fusion of a feature with the embedding of the token behind it.

    With feature f, embedding e, matrices W1, W2, Wz and row vectors:
    a = f W1; b = SiLU(RMSNorm(e) W2); z = sigmoid([a ; b] Wz); the result is z a + (1 - z) b.
    """

    def __init__(self, config: HeadConfig) -> None:
        """Make the fusion with Xavier-uniform weights."""
        super().__init__()
        self.embedding_norm = HeadNorm(config.feature_size, config)
        self.feature = nn.Linear(config.feature_size, config.width, bias=False)
        self.embedding = nn.Linear(config.feature_size, config.width, bias=False)
        self.gate = nn.Linear(2 * config.width, config.width, bias=False)
        for linear in (self.feature, self.embedding, self.gate):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Return the fused rows. Shapes: (..., E) and (..., E) to (..., W)."""
        from_feature = self.feature(features)
        from_embedding = functional.silu(self.embedding(self.embedding_norm(embeddings)))
        gate = torch.sigmoid(self.gate(torch.cat((from_feature, from_embedding), dim=-1)))
        fused: Tensor = gate * from_feature + (1 - gate) * from_embedding
        return fused


class HeadLayer(nn.Module):
    """One Llama decoder layer; layer 0 of a head has no input norm."""

    def __init__(self, config: HeadConfig, *, is_first: bool) -> None:
        """Make the layer; only `is_first` goes without the norm before its attention."""
        super().__init__()
        width, size = config.width, config.head_size
        self._num_heads, self._size = config.num_heads, size
        self._share = config.num_heads // config.num_key_value_heads
        self.input_norm = nn.Identity() if is_first else HeadNorm(width, config)
        self.query = nn.Linear(width, config.num_heads * size, bias=False)
        self.key = nn.Linear(width, config.num_key_value_heads * size, bias=False)
        self.value = nn.Linear(width, config.num_key_value_heads * size, bias=False)
        self.output = nn.Linear(config.num_heads * size, width, bias=False)
        self.feed_forward_norm = HeadNorm(width, config)
        self.gate = nn.Linear(width, config.intermediate_size, bias=False)
        self.up = nn.Linear(width, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], past: KeysValues) -> Tensor:
        """Return the rows behind the layer; their keys and values are appended to `past`.

        Args:
            hidden: Rows in. Shape: (B, N, W).
            rotation: Cosine and sine of the rows' positions. Shape: (N, D) each.
            past: Keys and values of the depths before; empty at the first depth.
        """
        rows = self.input_norm(hidden)
        query = rotate(self._by_head(self.query(rows)), rotation)
        key = rotate(self._by_head(self.key(rows)), rotation).repeat_interleave(self._share, 1)
        value = self._by_head(self.value(rows)).repeat_interleave(self._share, 1)
        past.append((key, value))
        mixed = attend_chains(query, past)
        hidden = hidden + self.output(mixed.transpose(1, 2).flatten(2))
        rows = self.feed_forward_norm(hidden)
        fed: Tensor = self.down(functional.silu(self.gate(rows)) * self.up(rows))
        return hidden + fed

    def _by_head(self, rows: Tensor) -> Tensor:
        batch, length, _ = rows.shape
        return rows.view(batch, length, -1, self._size).transpose(1, 2)


class DovetailHead(nn.Module):
    """The fusion, the decoder layers, and no final norm: the result is read by the target's head."""

    def __init__(self, config: HeadConfig) -> None:
        """Make a head with fresh weights."""
        super().__init__()
        self.config = config
        self.fusion = GatedFusion(config)
        self.layers = nn.ModuleList(
            HeadLayer(config, is_first=index == 0) for index in range(config.num_layers)
        )
        is_narrow = config.width != config.feature_size
        self.widen = (
            nn.Linear(config.width, config.feature_size, bias=False) if is_narrow else nn.Identity()
        )

    def forward(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Return what each row says of the next feature, every feature given being true.

        Args:
            features: Feature of token i in row i. Shape: (B, N, E).
            embeddings: The target's embedding of token i + 1 in row i. Shape: (B, N, E).

        Returns:
            Predicted features of token i + 1. Shape: (B, N, E).
        """
        return next(self.unroll(features, embeddings))

    def unroll(self, features: Tensor, embeddings: Tensor) -> Iterator[Tensor]:
        """Yield what a chain started at each row predicts, depth after depth, without end of its own.

        At depth d the chain of row i takes its own prediction of depth d - 1 and the embedding of
        token i + d, stands at position i + d - 1, and attends to the true rows 0 to i and to its own
        rows. Chains that run out of tokens are left out, so depth d has N - d + 1 rows.

        Args:
            features: As of `forward`. Shape: (B, N, E).
            embeddings: As of `forward`. Shape: (B, N, E).

        Yields:
            Predicted features of token i + d in row i. Shape: (B, N - d + 1, E).
        """
        cosine, sine = rotations(self.config, features.shape[1], features.device)
        past: list[KeysValues] = [[] for _ in self.layers]
        for depth in range(features.shape[1]):
            features = features[:, : embeddings.shape[1] - depth]
            hidden = self.fusion(features, embeddings[:, depth:])
            for layer, known in zip(self.layers, past, strict=True):
                hidden = layer(hidden, (cosine[depth:], sine[depth:]), known)
            features = self.widen(hidden)
            yield features


def attend_chains(query: Tensor, past: KeysValues) -> Tensor:
    """Attend from the rows of the newest depth to the true rows before them and to their own chain.

    Args:
        query: Queries with positions applied. Shape: (B, H, N, D).
        past: Keys and values by depth, those of the queries' own depth last; the first depth has M
            rows, M at least N.

    Returns:
        Mixed values. Shape: (B, H, N, D).
    """
    (true_keys, true_values), *own = past
    if not own:
        return functional.scaled_dot_product_attention(
            query, true_keys, true_values, is_causal=True
        )
    rows = query.shape[2]
    causal_NN = torch.ones(rows, rows, dtype=torch.bool, device=query.device).tril()
    scores = (query @ true_keys[:, :, :rows].transpose(2, 3)).masked_fill(~causal_NN, -torch.inf)
    own_scores = torch.stack([(query * keys[:, :, :rows]).sum(-1) for keys, _ in own], dim=-1)
    scale = query.shape[-1] ** -0.5
    weights = torch.softmax(torch.cat((scores, own_scores), dim=-1) * scale, dim=-1)
    mixed = weights[..., :rows].to(true_values.dtype) @ true_values[:, :, :rows]
    for index, (_, values) in enumerate(own):
        mixed = mixed + weights[..., rows + index, None] * values[:, :, :rows]
    return mixed


def rotations(
    config: HeadConfig, num_positions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles by position. Shape: (num_positions, D) each.

    Source: Su et al., "RoFormer" (2021), section 3.2, in the order by halves that Llama uses.
    """
    exponents = torch.arange(0, config.head_size, 2, device=device) / config.head_size
    frequencies = config.rope_theta**-exponents
    angles = torch.outer(torch.arange(num_positions, device=device).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions. Shapes: (B, H, N, D) and (N, D) twice to (B, H, N, D)."""
    first, second = heads.chunk(2, dim=-1)
    cosine, sine = rotation
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine
