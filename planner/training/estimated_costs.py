"""Costs of training a model that nobody measured: arithmetic, bytes and the data sheet."""

import math

from planner.hardware.model_spec import ModelSpec
from planner.training.cluster import Cluster
from planner.training.sequence_costs import ModelStates, SequenceCosts

STATE_BYTES_PER_PARAMETER = 16
"""Mixed precision with Adam: 16-bit weight and gradient, float32 weight and two moments."""

ACTIVATION_BYTES_PER_VALUE = 34
"""Kept from forward to backward for each number of a layer's width, without the attention scores,
which fused attention does not keep (Korthikanti et al., arXiv 2205.05198, equation 2)."""

_DATE = "2026-11"
"""Of the estimate's constants."""


def estimated_costs(
    model: ModelSpec, cluster: Cluster, *, flops_per_second: float
) -> SequenceCosts:
    """Return what training the whole model should cost on a device of relative speed 1.

    Weights are fully sharded: each micro-batch gathers them twice and spreads gradients once, 16
    bits a parameter, as fast as the narrowest place lets them through. Attention is causal.
    Arithmetic of forward and backward is three times the forward's.

    Args:
        model: Its sizes.
        cluster: Whose links carry the weights.
        flops_per_second: Arithmetic that a device of relative speed 1 sustains.
    """
    parameters = model.total_parameters
    return SequenceCosts(
        schema_version=1,
        name=model.name,
        attention_seconds_per_token_squared=(
            3 * model.attention_flops_per_pair / 2 / flops_per_second  # causal: half of all pairs
        ),
        linear_seconds_per_token=3 * (model.flops_per_token + model.head_flops) / flops_per_second,
        micro_batch_seconds=3 * 2 * parameters / _gathered_bytes_per_second(cluster),
        activation_bytes_per_token=(
            ACTIVATION_BYTES_PER_VALUE * model.hidden_size * model.num_layers
        ),
        model_states=(
            ModelStates(
                max_tokens=model.max_context_tokens,
                num_bytes=float(STATE_BYTES_PER_PARAMETER * parameters),
            ),
        ),
        num_layers=model.num_layers,
        num_query_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        head_size=max(1, model.attention_values_per_pair // (2 * model.num_attention_heads)),
        source="estimated from the model's sizes, the data sheet and the cluster's links",
        date=_DATE,
    )


def _gathered_bytes_per_second(cluster: Cluster) -> float:
    """Return how fast every device gets what all hold: a ring through all of them.

    Inside a node one device's link carries it; between nodes and islands the devices' shares of the
    network do together, as rings that enter a node by several adapters do (FlexSP's measured fixed
    time of the 7B model, 0.63 s, is 67 GB/s, eight shares of 8.4).
    """
    islands = cluster.islands
    rates = [i.node_bytes_per_second for i in islands if i.devices_per_node > 1]
    rates += [i.devices_per_node * i.nic_bytes_per_second for i in islands if i.num_nodes > 1]
    if len(islands) > 1:
        assert cluster.between_islands_bytes_per_second is not None  # checked on reading
        fewest = min(island.num_devices for island in islands)
        rates.append(fewest * cluster.between_islands_bytes_per_second)
    return min(rates, default=math.inf)
