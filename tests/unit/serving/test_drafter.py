import torch
from toy_model import TableModel, random_table

import serving.engine.model_drafter as drafter_module
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

TARGET = random_table(6, seed=1)
LIMITS = EngineLimits(kv_bytes=1000, max_sequences=4, max_waiting=10)


def generate(drafter: ChainDrafter | None, *, temperature: float, prompt=(1, 2)) -> tuple[int, ...]:
    engine = Engine(
        TableModel(TARGET), drafter, num_draft_tokens=3, limits=LIMITS, eos_ids=frozenset()
    )
    params = SamplingParams(max_tokens=20, temperature=temperature)
    engine.add(GenerationRequest("a", tuple(prompt), params, seed=5))
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
