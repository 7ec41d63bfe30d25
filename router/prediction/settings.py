"""What a predictor is fitted with; chosen inside the training data, stored in its file."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from planner.config import StrictModel


class PredictorSettings(StrictModel):
    """The settings of one predictor."""

    num_dimensions: Annotated[int, Field(ge=1)] = 64
    """Of the projected words."""
    cue_weight: Annotated[float, Field(ge=0)] = 0.2
    """Factor of the standardised cues beside the projected words, whose mean square length is 1."""
    embedding_weight: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the sentence embedding's part, whose mean square length is 1 too; 0: none is looked
    at, and the setting is not written."""
    ridge_penalty: Annotated[float, Field(gt=0)] = 3.0
    """Added to the Gram matrix's diagonal."""
    num_neighbours: Annotated[int, Field(ge=1)] = 150
    """Training prompts looked at."""
    sharpness: Annotated[float, Field(ge=0)] = 4.0
    """A neighbour weighs its cosine to this power; 0 weights all alike."""
    ridge_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Of the blend; the neighbours have the rest."""
    is_calibrated: bool = True
    """Whether the isotonic maps are applied."""
    abstain_margin: Annotated[float, Field(ge=0)] = 0.0
    """Standard errors by which a pick must lead the best single model; 0 never abstains."""

    @property
    def space(self) -> tuple[int, float, float]:
        """What the dense vectors depend on."""
        return self.num_dimensions, self.cue_weight, self.embedding_weight

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if not self.embedding_weight:
            content.pop("embedding_weight", None)
        return content
