import pytest
import torch
from toy_model import TableModel, random_table
from toy_speculation import ToyGrammar

import serving.engine.model_drafter as drafter_module
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

TARGET = random_table(6, seed=1)
LIMITS = EngineLimits(kv_bytes=1000, max_sequences=4, max_waiting=10)


def generate(
    drafter: ChainDrafter | TreeDrafter | None, *, temperature: float, prompt=(1, 2), grammar=None
) -> tuple[int, ...]:
    engine = Engine(
        TableModel(TARGET), drafter, num_draft_tokens=3, limits=LIMITS, eos_ids=frozenset()
    )
    params = SamplingParams(max_tokens=20, temperature=temperature)
    engine.add(GenerationRequest("a", tuple(prompt), params, seed=5, grammar=grammar))
    text: tuple[int, ...] = ()
    while engine.has_work:
        for output in engine.step():
            text += output.tokens
    return text


def test_a_draft_of_another_embedding_width_still_drafts():
    """Wider logits are cut and narrower ones filled; greedy output stays the target's own."""
    plain = generate(None, temperature=0)
    wide = torch.cat([random_table(6, seed=2), torch.full((6, 3), 9.0)], dim=1)
    for table in (wide, TARGET[:, :5]):
        drafter = ChainDrafter(TableModel(table), vocabulary_size=6)
        assert generate(drafter, temperature=0) == plain
        assert all(token < 6 for token in generate(drafter, temperature=1.0))


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_narrower_draft_is_never_asked_for_a_token_it_lacks(temperature):
    """Where a grammar leaves less than a beam, what fills it is a token that the draft has."""
    grammar = ToyGrammar([{1: 1, 2: 0}, {3: 0, 4: 1}], vocabulary_size=6)
    drafter = TreeDrafter(TableModel(TARGET[:5, :5]), beam_width=6, depth=3, vocabulary_size=6)
    plain = generate(None, temperature=temperature, grammar=grammar)
    assert generate(drafter, temperature=temperature, grammar=grammar) == plain


def test_a_long_prompt_reaches_the_draft_in_chunks(monkeypatch):
    """The draft never takes in more rows at once than the limit, and the text does not change."""
    monkeypatch.setattr(drafter_module, "MOST_CATCH_UP_ROWS", 8)
    rows: list[int] = []

    class Recording(TableModel):
        def forward(self, batch):
            rows.append(max(len(part.tokens) for part in batch))
            return super().forward(batch)

    prompt = [index % 6 for index in range(50)]
    drafted = generate(ChainDrafter(Recording(TARGET)), temperature=0, prompt=prompt)
    assert drafted == generate(None, temperature=0, prompt=prompt)
    assert max(rows) <= 8
