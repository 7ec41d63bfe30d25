"""Costs of a training step that nobody measured, from the model's sizes.

They order plans; `motley plan training --calibrate` of a run's `steps.jsonl` makes better ones, of
which `with_measured_times` takes the times.
"""

from dataclasses import dataclass

from planner.training.sequence_costs import ModelStates, SequenceCosts, Sharding

_FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1.5e14}
"""What training reaches of one device: a process with few CPU cores, a GPU of the A100's class at
half its peak. Plans depend on its ratio to the links and to the fixed time of a micro-batch."""

_FIXED_SECONDS = {"cpu": 5e-3, "cuda": 20e-3}
"""Of a micro-batch's forward and backward, whatever its tokens: launches, Python."""

_KEPT_PER_LAYER = 17
"""Numbers that a layer keeps of a token for the backward pass, as multiples of the model's width.
Source: Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1, without attention's square."""

_LOSS_BYTES_PER_ENTRY = 8
"""Logits and their gradient in float32, of each vocabulary entry."""

_MEASURED = (
    "name",
    "attention_seconds_per_token_squared",
    "linear_seconds_per_token",
    "micro_batch_seconds",
    "source",
    "date",
)
"""What measured costs say that the model's sizes do not."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What of a model decides its costs.

    Attributes:
        num_layers: Decoder layers.
        num_query_heads: Of a layer.
        num_key_value_heads: Of a layer.
        head_size: Width of one head.
        width: Of the residual stream.
        vocabulary_size: Entries of the output.
        num_weights: Numbers in all weights.
        num_trained: Those of them that are trained, an adapter's included.
    """

    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    head_size: int
    width: int
    vocabulary_size: int
    num_weights: int
    num_trained: int


def own_costs(
    sizes: ModelSizes,
    *,
    name: str,
    max_tokens: int,
    is_sharded: bool,
    in_bfloat16: bool,
    is_checkpointed: bool,
    device: str,
) -> SequenceCosts:
    """Return the costs of a model on one device.

    Args:
        sizes: The model's.
        name: What they are of.
        max_tokens: Longest sequence.
        is_sharded: Whether weights, gradients and optimiser are spread over all devices.
        in_bfloat16: Whether arithmetic is in 16 bits.
        is_checkpointed: Whether each layer's input alone is kept, and the rest computed again.
        device: `cpu` or `cuda`.
    """
    rate = _FLOPS_PER_SECOND[device]
    passes = 4 if is_checkpointed else 3  # forward, twice as much backward, forward again
    # Of a token: every weight once; of a pair of tokens, half of which the causal mask leaves:
    # queries with keys and weights with values.
    linear = 2 * passes * sizes.num_weights
    pair = 2 * passes * sizes.num_layers * sizes.num_query_heads * sizes.head_size
    value_bytes = 2 if in_bfloat16 else 4
    whole, inputs = (1, sizes.num_layers) if is_checkpointed else (sizes.num_layers, 0)
    kept = value_bytes * sizes.width * (_KEPT_PER_LAYER * whole + inputs)
    kept += _LOSS_BYTES_PER_ENTRY * sizes.vocabulary_size
    # Float32 weights, gradients and two moments; beside them a 16-bit copy.
    states = 4 * sizes.num_weights + 12 * sizes.num_trained
    states += 2 * sizes.num_weights if in_bfloat16 else 0
    sharding: Sharding = "zero3" if is_sharded else "none"
    return SequenceCosts(
        schema_version=1,
        name=name,
        attention_seconds_per_token_squared=pair / rate,
        linear_seconds_per_token=linear / rate,
        micro_batch_seconds=_FIXED_SECONDS[device],
        activation_bytes_per_token=kept,
        model_states=(ModelStates(max_tokens=max_tokens, num_bytes=states),),
        sharding=sharding,
        num_layers=sizes.num_layers,
        num_query_heads=sizes.num_query_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        head_size=sizes.head_size,
        exchanged_bytes_per_value=value_bytes,
        source="estimated from the model's sizes, not measured",
        date="2026-11",
    )


def with_measured_times(own: SequenceCosts, measured: SequenceCosts) -> SequenceCosts:
    """Return a job's own costs with measured times and rates; what it holds in memory stays its own.

    Who measured may have assumed other widths and bytes of a number: rates are told in the job's
    bytes, so that an exchange takes the time that was measured.

    Args:
        own: By the job's sharding, precision and adapter.
        measured: Of the same model.
    """
    rates = {
        degree: rate
        * own.exchanged_bytes_per_token(degree)
        / measured.exchanged_bytes_per_token(degree)
        for degree, rate in measured.all_to_all_bytes_per_second.items()
    }
    times = {name: getattr(measured, name) for name in _MEASURED}
    return own.model_copy(update=times | {"all_to_all_bytes_per_second": rates})
