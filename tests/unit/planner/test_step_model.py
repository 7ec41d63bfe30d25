"""Seconds of a step: small designs computed by hand, and what must hold for every design."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.coefficients import Coefficients, built_in_coefficients
from planner.hardware.find_model import find_model
from planner.hardware.gpu_spec import GpuSpec
from planner.hardware.model_spec import ModelSpec
from planner.speed.replica_design import ReplicaDesign
from planner.speed.step_model import RooflineStepTimes
from planner.speed.step_times import StepBatch

CATALOGUE = built_in_catalogue()

GPU = GpuSpec.model_validate(
    {
        "name": "round",
        "memory_bytes": 10_000_000,
        "bandwidth_bytes_per_second": 1e6,
        "dense_flops_per_second": {"bfloat16": 1e7},
        "interconnect": {"kind": "nvlink", "bytes_per_second": 1e5},
        "source": "made up",
        "date": "2026",
    }
)

MODEL = ModelSpec(
    name="small",
    num_layers=4,
    hidden_size=10,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_values_per_pair=20,
    kv_values_per_token=40,
    layer_parameters=400_000,
    vocabulary_parameters=100_000,
    is_embedding_tied=False,
    max_context_tokens=1000,
)


def _coefficients(**values: float) -> Coefficients:
    numbers = {
        "weight_bandwidth_fraction": 0.5,
        "kv_bandwidth_fraction": 0.25,
        "compute_fraction": 0.5,
        "link_fraction": 0.5,
        "layer_seconds": 0.01,
        "step_seconds": 0.1,
        "collective_seconds": 0.001,
        **values,
    }
    entries = {
        name: {
            "value": value,
            "unit": name.rpartition("_")[2],
            "source": "made up",
            "date": "2026",
        }
        for name, value in numbers.items()
    }
    return Coefficients.model_validate({"name": "round", "description": "made up", **entries})


def _seconds(batch, **design):
    return RooflineStepTimes(ReplicaDesign(GPU, MODEL, **design), _coefficients()).step_seconds(
        batch
    )


def test_a_decode_step_by_hand():
    """Two sequences, 100 tokens of context: reading the weights lasts longer than computing.

    Weights: layers 800 kB and head 200 kB at 0.5 MB/s: 2 s. FLOPs: 2 x (0.8 M + 0.2 M) at 5 M/s:
    0.4 s. Cache: 100 x 40 x 2 B = 8 kB at 0.25 MB/s: 0.032 s. Layers 0.04 s, step 0.1 s.
    """
    assert _seconds(StepBatch(0, 0.0, 2, 100)) == pytest.approx(2 + 0.032 + 0.04 + 0.1)


def test_a_prompt_by_hand():
    """Fifty prompt tokens compute longer than the weights take to read.

    FLOPs: 50 x 0.8 M, one head 0.2 M, 1275 pairs x 2 x 4 x 20 = 0.204 M: 40.404 M at 5 M/s.
    """
    seconds = _seconds(StepBatch(50, 50 * 51 / 2, 0, 0))
    assert seconds == pytest.approx(40.404e6 / 5e6 + 0.04 + 0.1)


def test_two_devices_share_a_layer_by_hand():
    """Weights and cache halve; eight all-reduces wait once each and send 20 B a token.

    Link: 8 x 2 (2 - 1) / 2 x 2 sequences x 10 x 2 B = 320 B at 50 kB/s: 0.0064 s; hops 8 x 1 ms.
    """
    seconds = _seconds(StepBatch(0, 0.0, 2, 100), tensor_parallel=2)
    assert seconds == pytest.approx(1 + 0.016 + 0.04 + 0.1 + 0.0064 + 0.008)


def test_four_devices_repeat_two_heads():
    """Beyond the two key-value heads the cache is no longer divided; an all-reduce waits twice.

    Link: 8 x 2 x 3 / 4 x 40 B = 480 B at 50 kB/s: 0.0096 s; hops 8 x 2 x 1 ms.
    """
    seconds = _seconds(StepBatch(0, 0.0, 2, 100), tensor_parallel=4)
    assert seconds == pytest.approx(0.5 + 0.016 + 0.04 + 0.1 + 0.0096 + 0.016)


def test_two_stages_by_hand():
    """A round of two half batches reads each stage's weights twice and crosses two boundaries.

    Stage: layers 400 kB and head 200 kB at 0.5 MB/s: 1.2 s; cache of half the context in half the
    layers: 0.008 s; two layers 0.02 s; boundary 1 ms and 20 B at 50 kB/s. Twice, and one step.
    """
    seconds = _seconds(StepBatch(0, 0.0, 2, 100), pipeline_parallel=2)
    assert seconds == pytest.approx(2 * (1.2 + 0.008 + 0.02 + 0.001 + 0.0004) + 0.1)


@given(
    st.sampled_from(["A100-80GB", "L4", "cpu-xeon-8480", "MI300X"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 3]),
    st.integers(0, 2000),
    st.integers(1, 256),
)
def test_steps_are_affine_in_the_contexts(gpu, tensor, pipeline, prompt, decoding):
    """With the rest fixed, equal additions of context add equal times: the simulator needs it."""
    design = ReplicaDesign(
        CATALOGUE.gpu(gpu),
        find_model("mistralai/Mixtral-8x7B-Instruct-v0.1", CATALOGUE),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
    )
    times = RooflineStepTimes(design, built_in_coefficients())
    near, middle, far = (
        times.step_seconds(StepBatch(prompt, prompt**2 / 2, decoding, context))
        for context in (0, 50_000, 100_000)
    )
    assert 0 < near < middle < far
    assert middle == pytest.approx((near + far) / 2, rel=1e-9)


def test_experts_are_read_as_tokens_visit_them():
    """One token reads two of eight experts, a large batch all of them; a dense model has none."""
    mixtral = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1", CATALOGUE)
    times = RooflineStepTimes(
        ReplicaDesign(CATALOGUE.gpu("H200"), mixtral), built_in_coefficients()
    )
    few = times.stage_work(StepBatch(0, 0.0, 1, 0)).weight_seconds
    many = times.stage_work(StepBatch(0, 0.0, 200, 0)).weight_seconds
    all_weights = mixtral.weight_traffic_bytes("bfloat16", 1e9) / 4.8e12
    assert few == pytest.approx(mixtral.weight_traffic_bytes("bfloat16", 1) / 4.8e12)
    assert few < 0.35 * many
    assert many == pytest.approx(all_weights)


def test_narrow_weights_decode_faster():
    """Four-bit weights on a device without such units are read faster and computed as 16 bits."""
    gpu, model = CATALOGUE.gpu("A100-80GB"), find_model("Qwen/Qwen2.5-7B-Instruct", CATALOGUE)
    decode, prompt = StepBatch(0, 0.0, 1, 100), StepBatch(2000, 2e6, 0, 0)
    wide = RooflineStepTimes(ReplicaDesign(gpu, model), built_in_coefficients())
    narrow = RooflineStepTimes(
        ReplicaDesign(gpu, model, weight_dtype="int4"), built_in_coefficients()
    )
    assert narrow.step_seconds(decode) < 0.5 * wide.step_seconds(decode)
    assert narrow.step_seconds(prompt) == pytest.approx(wide.step_seconds(prompt))


def test_weights_without_units_are_refused():
    """bfloat16 on a T4 is never computed as something else."""
    design = ReplicaDesign(CATALOGUE.gpu("T4"), MODEL)
    with pytest.raises(ValueError, match="T4 cannot compute with bfloat16 weights"):
        RooflineStepTimes(design, built_in_coefficients())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tensor_parallel", 0, "tensor_parallel is 0; give at least 1"),
        ("max_sequences", 0, "max_sequences is 0"),
        ("max_batched_tokens", 10, "below the 256 tokens of max_sequences"),
        ("memory_fraction", 1.2, "memory_fraction is 1.2"),
        ("memory_fraction", float("nan"), "memory_fraction is nan"),
    ],
)
def test_designs_out_of_range_are_refused(field, value, message):
    """A design names the number that is wrong."""
    with pytest.raises(ValueError, match=message):
        ReplicaDesign(GPU, MODEL, **{field: value})
