"""A fitted predictor: each model's loss on a prompt, and how far to trust it.

    features -> dense vector -> ridge and nearest neighbours, blended -> isotonic calibration

The one path serves training, evaluation and the live router. Losses are 1 minus the score for graded
answers; any other loss, such as nats a token, works alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.prediction.calibration import Calibration
from router.prediction.embedding_map import EmbeddingMap
from router.prediction.features import HashedFeatures, hash_text
from router.prediction.neighbours import Neighbours
from router.prediction.projection import Projection
from router.prediction.ridge import Ridge
from router.prediction.settings import PredictorSettings

Float32 = NDArray[np.float32]
_MOST_AT_ONCE = 500
"""Prompts whose similarities to all neighbours are in memory at once."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of each model on one prompt; arrays in the order of `models`."""

    models: tuple[str, ...]
    losses: Float32
    """Predicted losses. Shape: (num_models,)."""
    standard_errors: Float32
    """Of the predicted losses, as if models erred independently. Shape: (num_models,)."""

    @property
    def qualities(self) -> Float32:
        """1 minus the losses: predicted scores, where the predictor was fitted on scores."""
        result: Float32 = np.float32(1) - self.losses
        return result


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a predictor was fitted on."""

    num_prompts: int
    """Labelled prompts."""
    data_sha256: str
    """Hash of the training data, as `training.fit` was told."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Fitted arrays and the settings they go with; safe to share between threads."""

    models: tuple[str, ...]
    """Names, sorted; every array over models follows this order."""
    settings: PredictorSettings
    projection: Projection
    ridge: Ridge
    neighbours: Neighbours
    calibration: Calibration
    residual_deviations: Float32
    """Standard deviation of each model's held-out errors. Shape: (num_models,)."""
    provenance: Provenance

    @staticmethod
    def load(path: Path) -> "Predictor":
        """Read a predictor's file.

        Raises:
            PredictorFileError: If it cannot be read or is of another version.
        """
        from router.prediction.predictor_file import read_predictor

        return read_predictor(path)

    @property
    def mean_losses(self) -> Float32:
        """Each model's mean loss over the training prompts, shrunk. Shape: (num_models,)."""
        return self.ridge.means

    @property
    def embedding(self) -> EmbeddingMap | None:
        """What is made of a prompt's sentence embedding; None: none is looked at."""
        return self.projection.embedding

    @property
    def best_single(self) -> int:
        """The position of the model that is best when prompts are not looked at."""
        return int(self.mean_losses.argmin())

    def predict(self, text: str) -> Prediction:
        """Return what is expected of each model on a prompt."""
        return self.predict_features(hash_text(text))

    def predict_features(self, features: HashedFeatures) -> Prediction:
        """Return the same from features alone, such as a log's."""
        losses, errors = self.predict_many([features])
        return Prediction(self.models, losses[0], errors[0])

    def predict_many(self, features: Sequence[HashedFeatures]) -> tuple[Float32, Float32]:
        """Return losses and standard errors. Both shapes: (num_prompts, num_models)."""
        parts = [
            self._predict_some(features[begin : begin + _MOST_AT_ONCE])
            for begin in range(0, len(features), _MOST_AT_ONCE)
        ]
        losses, errors = zip(*parts, strict=True)
        return np.concatenate(losses), np.concatenate(errors)

    def _predict_some(self, features: Sequence[HashedFeatures]) -> tuple[Float32, Float32]:
        vectors = vectors_of(self.projection, features, self.settings)
        by_ridge = self.ridge.predict(vectors)
        by_neighbours, counts = self.neighbours.predict(
            vectors,
            num_neighbours=self.settings.num_neighbours,
            sharpness=self.settings.sharpness,
        )
        share = np.float32(self.settings.ridge_share)
        losses = share * by_ridge + (1 - share) * by_neighbours
        if self.settings.is_calibrated:
            losses = self.calibration.apply(losses)
        spread = share * np.sqrt(self.ridge.leverages(vectors)) + (1 - share) / np.sqrt(counts)
        return losses, (spread * self.residual_deviations).astype(np.float32)


def vectors_of(
    projection: Projection, features: Sequence[HashedFeatures], settings: PredictorSettings
) -> Float32:
    """Return dense vectors, all of one length; see `Projection.project`."""
    return np.stack(
        [
            projection.project(
                one,
                num_dimensions=settings.num_dimensions,
                cue_weight=settings.cue_weight,
                embedding_weight=settings.embedding_weight,
            )
            for one in features
        ]
    )
