"""The sets of coefficients that ship, and how near they come to published measurements."""

import pytest
from pydantic import ValidationError

from planner.errors import UnknownNameError
from planner.hardware.catalogue import built_in_catalogue, read_packaged
from planner.hardware.coefficients import CoefficientSets, built_in_coefficients
from planner.hardware.find_model import find_model
from planner.speed.replica_design import ReplicaDesign
from planner.speed.step_model import RooflineStepTimes
from planner.speed.step_times import StepBatch

CATALOGUE = built_in_catalogue()


def test_sets_ship_with_sources():
    """The default and the calibrated set are there, by unique names; the calibrated has its error."""
    sets = read_packaged("coefficients.yaml", CoefficientSets).sets
    assert [entry.name for entry in sets] == ["vllm", "splitwise-a100", "motley-cpu"]
    assert built_in_coefficients().name == "vllm"
    assert built_in_coefficients("splitwise-a100").residual is not None


def test_an_unknown_set_is_refused():
    """A name that is none lists those that are."""
    with pytest.raises(UnknownNameError, match=r"no set of coefficients is called vlm; near: vllm"):
        built_in_coefficients("vlm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 1.2, "unit": "fraction"}, "less than or equal to 1"),
        ({"value": 0, "unit": "fraction"}, "greater than 0"),
        ({"value": 0.8, "unit": "percent"}, "fraction"),
        ({"value": 0.8}, "Field required"),
    ],
)
def test_fractions_are_checked(change, message):
    """A share above its peak, of nothing, or in another unit is a mistake."""
    content = built_in_coefficients().model_dump(mode="json")
    entry = {"source": "made up", "date": "2026"} | change
    with pytest.raises(ValidationError, match=message):
        type(built_in_coefficients()).model_validate(content | {"compute_fraction": entry})


@pytest.mark.parametrize(
    ("batch", "seconds", "tolerance"),
    [
        (StepBatch(0, 0.0, 1, 576), 0.0450, 0.15),
        (StepBatch(512, 512 * 513 / 2, 0, 0), 0.0930, 0.25),
        (StepBatch(2048, 2048 * 2049 / 2, 0, 0), 0.2742, 0.25),
    ],
)
def test_published_times_at_eight_devices(batch, seconds, tolerance):
    """Llama-2-70B on eight A100: three times that the fit has not seen (Splitwise, 2311.18677)."""
    design = ReplicaDesign(
        CATALOGUE.gpu("A100-80GB"),
        find_model("meta-llama/Llama-2-70b-hf", CATALOGUE),
        tensor_parallel=8,
        weight_dtype="float16",
    )
    times = RooflineStepTimes(design, built_in_coefficients("splitwise-a100"))
    assert times.step_seconds(batch) == pytest.approx(seconds, rel=tolerance)


def test_a_layer_of_the_default_is_as_fast_as_measured():
    """Helix's 1.4 ms for a Llama-2-70B layer on an A100-40GB, batch 2, without head and step."""
    gpu = CATALOGUE.gpu("A100-40GB")
    model = find_model("meta-llama/Llama-2-70b-hf", CATALOGUE)
    times = RooflineStepTimes(ReplicaDesign(gpu, model), built_in_coefficients())
    step = times.step_seconds(StepBatch(0, 0.0, 2, 200))
    head = 2 * model.vocabulary_parameters / (0.8 * gpu.bandwidth_bytes_per_second)
    assert (step - head - 1e-3) / model.num_layers == pytest.approx(1.4e-3, rel=0.05)
