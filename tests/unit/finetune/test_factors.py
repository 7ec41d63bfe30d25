"""Factors told apart by name, and their scales."""

import math
import re

import numpy as np
import pytest

from finetune.factors import Factors, Scaling, common_rank, paired, resized, unpaired

Q = "base_model.model.model.layers.1.self_attn.q_proj"
V = "base_model.model.model.layers.1.self_attn.v_proj"


def tensors(name, *, outputs=5, inputs=3, rank=2):
    """Return one module's tensors, filled with distinct numbers."""
    return {
        f"{name}.lora_A.weight": np.arange(rank * inputs, dtype=np.float32).reshape(rank, inputs),
        f"{name}.lora_B.weight": -np.arange(outputs * rank, dtype=np.float32).reshape(
            outputs, rank
        ),
    }


@pytest.mark.parametrize(
    ("outputs", "inputs", "rank"), [(5, 3, 2), (2, 3, 2), (5, 2, 2), (2, 2, 2)]
)
def test_halves_are_told_apart_by_name(outputs, inputs, rank):
    """A square factor of a layer as narrow as the rank is still the one its name says."""
    given = tensors(Q, outputs=outputs, inputs=inputs, rank=rank)
    adapter = paired(given, Scaling(rank=rank, alpha=4.0))
    factors = adapter.modules[Q]
    np.testing.assert_array_equal(factors.down_RN, given[f"{Q}.lora_A.weight"])
    np.testing.assert_array_equal(factors.up_MR, given[f"{Q}.lora_B.weight"])
    back = unpaired(adapter)
    assert back.keys() == given.keys()
    for name, tensor in given.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize(
    ("scaling", "scale"),
    [
        (Scaling(4, 8.0), 2.0),
        (Scaling(4, 8.0, is_rank_stabilised=True), 4.0),
        (Scaling(2, 8.0, rank_pattern={"q_proj": 4}), 2.0),
        (Scaling(2, 8.0, rank_pattern={"layers.1.self_attn.q_proj": 4, "q_proj": 3}), 2.0),
        (Scaling(4, 1.0, alpha_pattern={"self_attn.q_proj": 8.0}), 2.0),
        (Scaling(4, 8.0, alpha_pattern={"_proj": 1.0, "layers.0.*": 1.0}), 2.0),
        (Scaling(9, 1.0, True, {"q_proj": 4}, {"q_proj": 8.0}), 8 / math.sqrt(4)),
    ],
)
def test_scales_follow_the_configuration(scaling, scale):
    """The scale is alpha over the rank or its root, each by the first pattern that ends the name."""
    assert paired(tensors(Q, rank=4), scaling).modules[Q].scale == scale


def test_what_is_no_factor_is_kept():
    """A head's weights pass through as they are."""
    head = {"base_model.model.score.weight": np.ones((2, 3), np.float32)}
    adapter = paired(tensors(Q) | head, Scaling(2, 4.0))
    assert adapter.others == head
    assert unpaired(adapter).keys() == (tensors(Q) | head).keys()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({f"{Q}.lora_A.weight": np.ones((2, 3))}, "lora_A but no lora_B"),
        ({f"{Q}.lora_B.weight": np.ones((2, 3))}, "no half of a plain LoRA pair"),
        (tensors(Q) | {f"{Q}.lora_magnitude_vector": np.ones(5)}, "lora_magnitude_vector is no"),
        (tensors(Q, rank=3), "not rank 2 in both"),
        (tensors(Q) | {f"{Q}.lora_B.weight": np.ones((5, 3))}, "(5, 3), not rank 2 in both"),
        (tensors(Q) | {f"{Q}.lora_B.weight": np.ones(2)}, "not rank 2 in both"),
    ],
)
def test_tensors_that_do_not_pair_are_named(given, says):
    """Missing halves, other kinds of adapter and wrong ranks are the caller's mistake."""
    with pytest.raises(ValueError, match=re.escape(says)):
        paired(given, Scaling(2, 4.0))


def test_padding_keeps_the_product_at_any_scale():
    """Zeros add nothing, and B takes up the change of scale."""
    factors = Factors(np.ones((5, 2)), np.arange(6.0).reshape(2, 3), scale=0.5)
    padded = factors.padded(4, scale=3.0)
    assert (padded.rank, padded.scale) == (4, 3.0)
    np.testing.assert_allclose(
        3.0 * padded.up_MR @ padded.down_RN, 0.5 * factors.up_MR @ factors.down_RN
    )
    with pytest.raises(ValueError, match="rank 2 does not fit in 1"):
        factors.padded(1, scale=1.0)
    with pytest.raises(ValueError, match="scale 0 is not positive"):
        factors.padded(2, scale=0)


def test_components_are_cut_and_filled_with_zeros():
    """Rows of A and columns of B come and go together; a head stays as it is."""
    head = {"base_model.model.score.weight": np.ones((2, 3), np.float32)}
    given = tensors(Q, rank=3) | head
    larger, smaller = resized(given, 5), resized(given, 2)
    assert (common_rank(given), common_rank(larger), common_rank(smaller)) == (3, 5, 2)
    assert not larger[f"{Q}.lora_A.weight"][3:].any()
    assert not larger[f"{Q}.lora_B.weight"][:, 3:].any()
    for name, tensor in resized(larger, 3).items():
        np.testing.assert_array_equal(tensor, given[name])
    np.testing.assert_array_equal(smaller[f"{Q}.lora_B.weight"], given[f"{Q}.lora_B.weight"][:, :2])
    assert common_rank(head) == 1
