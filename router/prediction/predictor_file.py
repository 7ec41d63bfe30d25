"""A predictor on disk: one `.npz` of plain arrays and one JSON text, never pickled objects."""

import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from planner.config import StrictModel
from router.errors import PredictorFileError
from router.prediction.calibration import NUM_KNOTS, Calibration
from router.prediction.cues import CUES
from router.prediction.embedding_map import EmbeddingMap
from router.prediction.features import (
    BUCKET_BITS,
    CAP_CHARACTERS,
    FEATURES_VERSION,
    NUM_BUCKETS,
)
from router.prediction.neighbours import Neighbours
from router.prediction.predictor import Predictor, Provenance
from router.prediction.projection import Projection
from router.prediction.ridge import Ridge
from router.prediction.settings import PredictorSettings

SCHEMA_VERSION: Final = 1
_Arrays = dict[str, NDArray[Any]]
_Shapes = dict[str, tuple[int, ...]]
_MOST_HEADER_BYTES = 1 << 20


class FeatureHeader(StrictModel):
    """How texts were turned into features; a reader with other features must refuse the file."""

    version: Literal[1] = FEATURES_VERSION
    """Of `features.hash_text`."""
    bucket_bits: Literal[16] = BUCKET_BITS
    """Binary logarithm of the number of buckets."""
    cap_characters: Literal[4000] = CAP_CHARACTERS
    """Of the beginning and the end of a prompt."""
    cues: tuple[str, ...] = CUES
    """Names of the dense cues."""


class EmbeddingHeader(StrictModel):
    """Whose sentence embeddings the predictor looks at."""

    model: Annotated[str, Field(min_length=1)]
    """As the server of embeddings called it in training."""
    length: Annotated[int, Field(ge=1)]
    """Of one embedding."""


class PredictorHeader(StrictModel):
    """The JSON part of the file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Of the file."""
    features: FeatureHeader = FeatureHeader()
    """What the arrays go with."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names, in the arrays' order."""
    settings: PredictorSettings
    """Chosen in training."""
    scale: float
    """Of the projected words."""
    embedding: EmbeddingHeader | None = None
    """Not written where no embeddings are looked at."""
    num_prompts: int
    """The predictor was fitted on."""
    data_sha256: str
    """Hash of the training data."""


def write_predictor(predictor: Predictor, path: Path) -> None:
    """Write the file whole or not at all; an older one of that name is replaced.

    Raises:
        PredictorFileError: If the disk does not take it.
    """
    header = PredictorHeader(
        models=predictor.models,
        settings=predictor.settings,
        scale=predictor.projection.scale,
        embedding=None
        if predictor.embedding is None
        else EmbeddingHeader(model=predictor.embedding.model, length=predictor.embedding.length),
        num_prompts=predictor.provenance.num_prompts,
        data_sha256=predictor.provenance.data_sha256,
    )
    content = io.BytesIO()
    words = np.frombuffer(header.model_dump_json(exclude_none=True).encode(), dtype=np.uint8)
    contents: dict[str, Any] = {"header": words, **_arrays_of(predictor)}
    np.savez(content, **contents)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise PredictorFileError(
            f"{path}: cannot be written: {error.strerror}; name a folder that exists and is writable"
        ) from error


def read_predictor(path: Path) -> Predictor:
    """Read a file that `write_predictor` wrote.

    Raises:
        PredictorFileError: If it is missing, damaged, or of another version or features.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            words = file["header"]
            if words.size > _MOST_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = PredictorHeader.model_validate_json(words.tobytes())
            arrays = {name: file[name] for name in file.files if name != "header"}
        return _predictor_of(header, arrays)
    except OSError as error:
        raise PredictorFileError(
            f"{path}: cannot be read: {error.strerror or error}; `motley route train` writes one"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PredictorFileError(
            f"{path}: {where}: {first['msg']}, not {first['input']!r:.40}; "
            "train it again with this version"
        ) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PredictorFileError(
            f"{path}: is no predictor: {error}; `motley route train` writes one"
        ) from error


def _arrays_of(predictor: Predictor) -> _Arrays:
    projection, ridge = predictor.projection, predictor.ridge
    neighbours, calibration = predictor.neighbours, predictor.calibration
    embedding = projection.embedding
    embedded: _Arrays = {}
    if embedding is not None:
        embedded = {
            "embedding_center": embedding.center,
            "embedding_components": embedding.components,
        }
    return {
        "projection_rows": projection.rows,
        "projection_weights": projection.bucket_weights,
        "projection_components": projection.components,
        "cue_means": projection.cue_means,
        "cue_factors": projection.cue_factors,
        "ridge_center": ridge.center,
        "ridge_weights": ridge.weights,
        "ridge_means": ridge.means,
        "ridge_inverses": ridge.inverses,
        "ridge_groups": ridge.groups,
        "neighbour_units": neighbours.units,
        "neighbour_losses": neighbours.losses,
        "neighbour_labelled": neighbours.labelled,
        "calibration_predicted": calibration.predicted,
        "calibration_observed": calibration.observed,
        "residual_deviations": predictor.residual_deviations,
        **embedded,
    }


def _predictor_of(header: PredictorHeader, arrays: _Arrays) -> Predictor:
    if header.features.cues != CUES:
        raise ValueError("its cues differ from this version's")
    _check_shapes(header, arrays)
    return Predictor(
        header.models,
        header.settings,
        Projection(
            arrays["projection_rows"].astype(np.int32),
            arrays["projection_weights"],
            arrays["projection_components"],
            header.scale,
            arrays["cue_means"],
            arrays["cue_factors"],
            None
            if header.embedding is None
            else EmbeddingMap(
                header.embedding.model, arrays["embedding_center"], arrays["embedding_components"]
            ),
        ),
        Ridge(
            arrays["ridge_center"],
            arrays["ridge_weights"],
            arrays["ridge_means"],
            arrays["ridge_inverses"],
            arrays["ridge_groups"].astype(np.int32),
        ),
        Neighbours(
            arrays["neighbour_units"],
            arrays["neighbour_losses"],
            arrays["neighbour_labelled"],
            arrays["ridge_means"],
        ),
        Calibration(arrays["calibration_predicted"], arrays["calibration_observed"]),
        arrays["residual_deviations"],
        Provenance(header.num_prompts, header.data_sha256),
    )


def _check_shapes(header: PredictorHeader, arrays: _Arrays) -> None:
    """Refuse arrays that do not fit together: a wrong one would be found while a client waits."""
    num_models, num_dimensions = len(header.models), header.settings.num_dimensions
    embedded = _embedding_shapes(header, arrays)
    num_features = num_dimensions + len(CUES) + embedded.get("embedding_components", (0, 0))[1]
    num_kept = len(arrays["projection_weights"])
    num_rows, num_groups = len(arrays["neighbour_units"]), len(arrays["ridge_inverses"])
    shapes: _Shapes = {
        "projection_rows": (NUM_BUCKETS,),
        "projection_weights": (num_kept,),
        "projection_components": (num_kept, num_dimensions),
        "cue_means": (len(CUES),),
        "cue_factors": (len(CUES),),
        "ridge_center": (num_features,),
        "ridge_weights": (num_features, num_models),
        "ridge_means": (num_models,),
        "ridge_inverses": (num_groups, num_features, num_features),
        "ridge_groups": (num_models,),
        "neighbour_units": (num_rows, num_features),
        "neighbour_losses": (num_rows, num_models),
        "neighbour_labelled": (num_rows, num_models),
        "calibration_predicted": (num_models, NUM_KNOTS),
        "calibration_observed": (num_models, NUM_KNOTS),
        "residual_deviations": (num_models,),
        **embedded,
    }
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape:
            raise ValueError(f"array {name} has shape {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"array {name} holds numbers that are not finite")
    # The only integers: both say where to look in another array.
    for name, least, most in (("projection_rows", -1, num_kept), ("ridge_groups", 0, num_groups)):
        array = arrays[name]
        if array.dtype.kind != "i" or array.min() < least or array.max() >= most:
            raise ValueError(f"array {name} points outside its table")
    if not num_rows:
        raise ValueError("it has no neighbours")


def _embedding_shapes(header: PredictorHeader, arrays: _Arrays) -> _Shapes:
    """Return the shapes of what a predictor with embeddings has besides."""
    if (header.embedding is None) != (header.settings.embedding_weight == 0):
        raise ValueError("its embeddings have a weight and no model, or a model and no weight")
    if header.embedding is None:
        return {}
    length = header.embedding.length
    num_dimensions = arrays["embedding_components"].size // length
    return {"embedding_center": (length,), "embedding_components": (length, num_dimensions)}
