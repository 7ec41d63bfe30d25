"""The tiny model served with packed weights: drafting changes no token, memory goes down."""

import pytest
import torch
from generation import DRAFTERS, generate, outputs

from serving.config import ServeConfig
from serving.engine.cost_curve import measure_curve
from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.invariance import check_model
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.rows import Rows
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

KINDS = ["float32", "bfloat16", "int8", "int4"]


@pytest.fixture(scope="module", params=KINDS)
def packed_target(request, tiny_family) -> FlatModel:
    """Return the shipped target with packed linears, row counts tested as at start."""
    folder = str(tiny_family / "target")
    model = FlatModel.load(folder, device="cpu", dtype=torch.float32, quantization=request.param)
    guarantee = check_model(
        model.model,
        most_rows=60,
        intermediate_size=model.config.intermediate_size,
        functions=model.row_functions,
    )
    assert model.path == "lean"
    assert guarantee.is_bit_exact, guarantee.broken_by
    return model


@pytest.mark.parametrize("num_prompts", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_greedy_tokens_are_the_same_with_and_without_the_draft(
    packed_target, draft, head, prompts, num_prompts
):
    """With every type of weight: alone, drafted, and in batches of eight as chains and trees."""
    prompts = prompts[:: len(prompts) // num_prompts]
    plain, _ = generate(packed_target, None, prompts, max_sequences=1)
    chain = ChainDrafter(draft)
    drafted, engine = generate(packed_target, chain, prompts, max_sequences=1)
    batched, _ = generate(packed_target, chain, prompts, max_sequences=8)
    tree = TreeDrafter(draft, beam_width=4, depth=4)
    branched, _ = generate(packed_target, tree, prompts, max_sequences=8, num_draft_tokens=14)
    assert drafted == plain
    assert batched == plain
    assert branched == plain
    for heads in (
        HeadChainDrafter(head, most_rows=8192),
        HeadTreeDrafter(head, most_rows=8192, beam_width=4, depth=4),
    ):
        headed, _ = generate(packed_target, heads, prompts, max_sequences=8, num_draft_tokens=14)
        assert headed == plain
    assert engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("name", ["chain", "head's tree"])
def test_logprobs_are_the_same_with_and_without_drafts(packed_target, drafts, prompts, name):
    """Bit for bit, since a row is the same whatever is verified with it."""
    told = []
    for kind in (None, DRAFTERS[name]):
        engine = Engine(
            packed_target,
            None if kind is None else kind.make(drafts),
            num_draft_tokens=0 if kind is None else kind.num_nodes,
            limits=EngineLimits(kv_bytes=1 << 24, max_sequences=4, max_waiting=4),
            eos_ids=frozenset(),
        )
        for index, temperature in enumerate((0, 0.8, 1.1)):
            params = SamplingParams(max_tokens=12, temperature=temperature, num_logprobs=3)
            engine.add(GenerationRequest(str(index), tuple(prompts[index]), params, seed=index))
        logprobs = dict.fromkeys("012", ())
        for output in outputs(engine):
            logprobs[output.request_id] += output.logprobs
        told.append(logprobs)
    assert told[0] == told[1]
    assert [len(logprobs) for logprobs in told[0].values()] == [12, 12, 12]


def test_packed_weights_stay_close_to_the_dense_model(packed_target, target, prompts):
    """Most of the likeliest tokens are the dense model's own."""
    tokens = prompts[0] + prompts[13] + prompts[27]
    dense = target.forward([Rows(tokens, SequenceCache(KVPool.for_tokens(128)), len(tokens))])
    packed = packed_target.forward(
        [Rows(tokens, SequenceCache(KVPool.for_tokens(128)), len(tokens))]
    )
    agreeing = (dense.argmax(-1) == packed.argmax(-1)).float().mean()
    assert float(agreeing) >= 0.8


def test_the_cost_curve_has_every_row_count_of_one_pass(target):
    """A calibration out of time still measures each count once, by the clock it is given."""
    ticks = iter(float(number) for number in range(1000))
    curve = measure_curve(
        target, name="target", row_counts=(1, 4), most_seconds=0, clock=lambda: next(ticks)
    )
    assert curve.seconds_by_rows == {1: 1.0, 4: 1.0}
    assert curve.repeats == 1
    assert curve.ratio(4) == 1.0
    assert curve.as_json()["seconds_by_rows"] == {"1": 1.0, "4": 1.0}


def test_quantization_off_the_processor_is_refused():
    """The packed kernels are a CPU's; asking for them elsewhere or in another type says so."""
    for fields in ({"target_device": "cuda:0"}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match="target_quantization int8 is for a CPU"):
            ServeConfig(model="m", served_model_name="m", target_quantization="int8", **fields)
