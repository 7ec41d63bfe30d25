"""The head's formula by hand, its chains against rows fed one by one, and its cache between rounds."""

import math

import pytest
import torch

from serving.engine import lean_head
from serving.engine.dovetail_head import DovetailHead, GatedFusion
from serving.engine.head_config import HeadConfig
from serving.engine.head_rows import HeadRows
from serving.engine.lean_head import LeanHead

FEATURE_SIZE, VOCABULARY = 12, 40


def small_config(**changes) -> HeadConfig:
    """Return a shape of a few thousand weights."""
    fields = {
        "feature_size": FEATURE_SIZE,
        "vocabulary_size": VOCABULARY,
        "width": FEATURE_SIZE,
        "num_layers": 2,
        "intermediate_size": 20,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "head_size": 6,
        "context_tokens": 64,
    }
    return HeadConfig(**(fields | changes))


def small_head(**changes) -> DovetailHead:
    """Return a seeded head whose norms are not all ones."""
    torch.manual_seed(5)
    head = DovetailHead(small_config(**changes))
    for name, parameter in head.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return head.eval().requires_grad_(False)


def ends() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a target's embedding and head."""
    generator = torch.Generator().manual_seed(6)
    shape = (VOCABULARY, FEATURE_SIZE)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def lean(head: DovetailHead) -> LeanHead:
    """Return the head as it drafts."""
    embedding, output_head = ends()
    return LeanHead(head, embedding=embedding, output_head=output_head)


def text(length: int) -> tuple[list[int], torch.Tensor]:
    """Return tokens 1 to `length` of a text and features 0 to `length - 1`."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    return tokens, torch.randn(length, FEATURE_SIZE, generator=generator)


def test_fusion_is_the_formula_by_hand():
    """One feature and one dimension: z a + (1 - z) b with numbers that fit on paper."""
    fusion = GatedFusion(small_config(feature_size=1, width=1))
    weights = {"feature": [[2.0]], "embedding": [[0.5]], "gate": [[1.0, -1.0]]}
    for name, weight in weights.items():
        getattr(fusion, name).weight.data = torch.tensor(weight)
    feature, embedding = torch.tensor([[3.0]]), torch.tensor([[-4.0]])
    a = 3.0 * 2.0
    normal = -4.0 / math.sqrt(16.0 + 1e-6)
    b = (normal * 0.5) / (1 + math.exp(-normal * 0.5))
    z = 1 / (1 + math.exp(-(a - b)))
    assert fusion(feature, embedding).item() == pytest.approx(z * a + (1 - z) * b, rel=1e-6)


@pytest.mark.parametrize(("width", "layers"), [(FEATURE_SIZE, 1), (8, 3)])
def test_shapes_lead_back_to_the_targets_width(width, layers):
    """Whatever its own width, a head takes and gives features of the target's."""
    head = small_head(width=width, num_layers=layers)
    rows = torch.randn(2, 7, FEATURE_SIZE)
    assert head(rows, rows).shape == (2, 7, FEATURE_SIZE)
    depths = [predicted.shape[1] for predicted in head.unroll(rows, rows)]
    assert depths == [7, 6, 5, 4, 3, 2, 1]


def test_only_layer_0_has_no_input_norm_and_nothing_norms_the_end():
    """The weights that exist say which norms exist."""
    names = set(small_head(num_layers=3).state_dict())
    assert "layers.0.input_norm.weight" not in names
    assert {"layers.1.input_norm.weight", "layers.2.input_norm.weight"} <= names
    assert not any(name.startswith("norm") for name in names)


def test_layer_0_sees_the_size_of_its_input():
    """With a norm in front, attention of a longer input would be the same; here it is not."""
    head = small_head(num_layers=1)
    first = head.layers[0]
    first.down.weight.data.zero_()
    rows = torch.randn(1, 1, FEATURE_SIZE)
    rotation = (torch.ones(1, 6), torch.zeros(1, 6))
    once, twice = first(rows, rotation, []), first(2 * rows, rotation, [])
    torch.testing.assert_close(twice, 2 * once)


def test_unrolled_chains_are_drafting_step_by_step():
    """Depth d of the chain behind row i equals feeding i + 1 true rows and then own features."""
    head = small_head()
    embedding, _ = ends()
    tokens, features = text(9)
    unrolled = list(head.unroll(features[None], embedding[tokens][None]))
    for start in (0, 3, 6):
        drafting = lean(head)
        cache = drafting.new_cache(16)
        output = drafting.prefill([HeadRows(tokens[: start + 1], features[: start + 1], cache)])
        torch.testing.assert_close(output.features_TE[0], unrolled[0][0, start])
        for depth in range(1, 9 - start):
            rows = HeadRows([tokens[start + depth]], output.features_TE, cache, depths=(depth,))
            output = drafting.step([rows])
            torch.testing.assert_close(output.features_TE[0], unrolled[depth][0, start])


@pytest.mark.parametrize("changes", [{}, {"width": 8}, {"num_layers": 1}])
def test_lean_head_computes_what_the_module_does(changes, monkeypatch):
    """Fused and folded weights, with and without the token table, give the module's rows."""
    head = small_head(**changes)
    embedding, output_head = ends()
    tokens, features = text(10)
    expected = head(features[None], embedding[tokens][None])[0, -1]
    for most_bytes in (1 << 20, 0):
        monkeypatch.setattr("serving.engine.lean_head.MOST_TABLE_BYTES", most_bytes)
        drafting = lean(head)
        output = drafting.prefill([HeadRows(tokens, features, drafting.new_cache(16))])
        torch.testing.assert_close(output.features_TE[0], expected)
        torch.testing.assert_close(output.logits_TV[0], expected @ output_head.T)


def test_cache_after_a_round_equals_a_fresh_prefill():
    """Tree rows go, accepted tokens come back with true features, and nothing else remains."""
    drafting = lean(small_head())
    tokens, features = text(12)
    cache = drafting.new_cache(24)
    output = drafting.prefill([HeadRows(tokens[:6], features[:6], cache)])
    wrong = output.features_TE.repeat(3, 1)
    output = drafting.step([HeadRows([1, 2, 3], wrong, cache, (1, 1, 1), torch.eye(3).bool())])
    visible = torch.tensor([[True, False, False, True, False], [False, True, False, False, True]])
    drafting.step([HeadRows([4, 5], output.features_TE[:2], cache, (2, 2), visible)])
    after = drafting.prefill([HeadRows(tokens[6:], features[6:], cache)])
    fresh = drafting.new_cache(24)
    expected = drafting.prefill([HeadRows(tokens, features, fresh)])
    assert cache.length == fresh.length == 12
    torch.testing.assert_close(cache.snapshot(), fresh.snapshot())
    torch.testing.assert_close(after.logits_TV, expected.logits_TV)


def test_a_tree_row_sees_its_own_ancestors_only():
    """Each leaf of a tree says what it would say as the end of a chain of its ancestors."""
    drafting = lean(small_head())
    tokens, features = text(5)
    cache = drafting.new_cache(24)
    root = drafting.prefill([HeadRows(tokens, features, cache)])
    level = drafting.step(
        [HeadRows([8, 9], root.features_TE.repeat(2, 1), cache, (1, 1), torch.eye(2).bool())]
    )
    visible = torch.tensor([[False, True, True, False], [True, False, False, True]])
    parents = level.features_TE[[1, 0]]
    leaves = drafting.step([HeadRows([10, 11], parents, cache, (2, 2), visible)])
    for row, chain in enumerate(([9, 10], [8, 11])):
        cache.drop_tree()
        output = drafting.step([HeadRows(chain[:1], root.features_TE, cache, (1,))])
        output = drafting.step([HeadRows(chain[1:], output.features_TE, cache, (2,))])
        torch.testing.assert_close(output.logits_TV[0], leaves.logits_TV[row])


def test_sequences_side_by_side_do_not_see_each_other():
    """Two sequences in one call get what each gets alone."""
    drafting = lean(small_head())
    tokens, features = text(9)
    parts = [(tokens[:3], features[:3]), (tokens[3:], features[3:])]
    together = [HeadRows(t, f, drafting.new_cache(16)) for t, f in parts]
    both = drafting.prefill(together)
    level = drafting.step(
        [
            HeadRows([1], both.features_TE[i : i + 1], rows.cache, (1,))
            for i, rows in enumerate(together)
        ]
    )
    for index, (own_tokens, own_features) in enumerate(parts):
        cache = drafting.new_cache(16)
        alone = drafting.prefill([HeadRows(own_tokens, own_features, cache)])
        torch.testing.assert_close(both.logits_TV[index], alone.logits_TV[0])
        alone = drafting.step([HeadRows([1], alone.features_TE, cache, (1,))])
        torch.testing.assert_close(level.logits_TV[index], alone.logits_TV[0])


def test_a_cache_may_begin_behind_a_shared_prefix():
    """Rows stand at their true positions where the features of the beginning are not known."""
    drafting = lean(small_head())
    tokens, features = text(6)
    plain, behind = drafting.new_cache(8), drafting.new_cache(8, first_position=3)
    drafting.prefill([HeadRows(tokens, features, plain)])
    drafting.prefill([HeadRows(tokens[3:], features[3:], behind)])
    # Keys of layer 0 depend on the row and its position alone.
    torch.testing.assert_close(behind.snapshot()[0, 0], plain.snapshot()[0, 0, :, 3:])


def test_large_frozen_ends_are_shared(monkeypatch):
    """On the target's own device and type the head holds no copy of a large output head."""
    embedding, output_head = ends()
    monkeypatch.setattr(lean_head, "MOST_COPY_BYTES", output_head.nbytes - 1)
    drafting = LeanHead(small_head(), embedding=embedding, output_head=output_head)
    assert drafting._output_head.data_ptr() == output_head.data_ptr()
    assert drafting._embedding.data_ptr() == embedding.data_ptr()
    assert drafting.cache_bytes_per_token == 2 * 2 * 2 * 6 * 4


def test_drafts_may_stand_behind_the_end_of_the_context():
    """The last round of a full sequence drafts like any other."""
    drafting = lean(small_head(context_tokens=8))
    tokens, features = text(8)
    cache = drafting.new_cache(12)
    output = drafting.prefill([HeadRows(tokens, features, cache)])
    for depth in (1, 2, 3):
        output = drafting.step([HeadRows([depth], output.features_TE, cache, (depth,))])
    assert torch.isfinite(output.logits_TV).all()
