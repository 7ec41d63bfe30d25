"""Prompts with known losses: what a predictor is fitted on and judged by."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.input_size import START_TOKENS_PER_BYTE
from router.prediction.features import HashedFeatures, hash_text

Float32 = NDArray[np.float32]

Progress = Callable[[int, int], None]
"""Is told how much is done, and of how much."""


@dataclass(frozen=True, slots=True)
class LabelledPrompts:
    """Features and true losses of some prompts."""

    models: tuple[str, ...]
    """Sorted names."""
    features: tuple[HashedFeatures, ...]
    losses: Float32
    """NaN where a model has no label. Shape: (num_prompts, num_models)."""
    prompt_tokens: Float32
    """Estimated length of each prompt, a token for four bytes. Shape: (num_prompts,)."""
    embedding_model: str | None = None
    """Whose sentence embeddings the features have; None: they have none."""

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.features)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "LabelledPrompts":
        """Return some of the prompts, by position or by mask; the models stay."""
        positions = np.arange(len(self))[chosen]
        return replace(
            self,
            features=tuple(self.features[int(one)] for one in positions),
            losses=self.losses[positions],
            prompt_tokens=self.prompt_tokens[positions],
        )

    def with_embeddings(
        self, embeddings: Sequence[Float32 | None], *, model: str
    ) -> "LabelledPrompts":
        """Return the prompts with each one's sentence embedding, where there is one."""
        features = tuple(
            replace(one, embedding=embedding)
            for one, embedding in zip(self.features, embeddings, strict=True)
        )
        return replace(self, features=features, embedding_model=model)

    def sha256(self) -> str:
        """Return a hash of everything here; the same on every machine."""
        digest = hashlib.sha256("\n".join(self.models).encode())
        digest.update(np.ascontiguousarray(self.losses, dtype="<f4").tobytes())
        for one in self.features:
            digest.update(one.indices.astype("<u4").tobytes())
            digest.update(one.values.astype("<f4").tobytes())
            if one.embedding is not None:
                digest.update(one.embedding.astype("<f4").tobytes())
        return digest.hexdigest()


def label_texts(
    texts: Sequence[str],
    losses: Sequence[Mapping[str, float]],
    *,
    progress: Progress | None = None,
) -> LabelledPrompts:
    """Return prompts with each one's losses by model; a model may be missing anywhere."""
    features = []
    for place, text in enumerate(texts):
        features.append(hash_text(text))
        if progress is not None:
            progress(place + 1, len(texts))
    num_bytes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return label_features(features, losses, prompt_bytes=num_bytes)


def label_scores(
    texts: Sequence[str],
    scores: Sequence[Mapping[str, float]],
    *,
    progress: Progress | None = None,
) -> LabelledPrompts:
    """Return prompts with scores from 0 to 1; the loss is 1 minus the score."""
    losses = [{model: 1 - score for model, score in one.items()} for one in scores]
    return label_texts(texts, losses, progress=progress)


def label_features(
    features: Sequence[HashedFeatures],
    losses: Sequence[Mapping[str, float]],
    *,
    prompt_bytes: Sequence[int],
) -> LabelledPrompts:
    """Return prompts of which only the features are known."""
    models = tuple(sorted({model for one in losses for model in one}))
    places = {model: place for place, model in enumerate(models)}
    matrix = np.full((len(features), len(models)), np.nan, dtype=np.float32)
    for row, one in enumerate(losses):
        for model, loss in one.items():
            matrix[row, places[model]] = loss
    tokens = np.array(prompt_bytes, dtype=np.float32) * np.float32(START_TOKENS_PER_BYTE)
    return LabelledPrompts(models, tuple(features), matrix, np.ceil(tokens))
