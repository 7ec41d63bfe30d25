"""Chains whose guesses stay on the draft's device are those of the drafter that looks at each."""

import pytest
from toy_model import TableModel, random_table

import serving.engine.apart_drafter as apart_module
from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

TARGET = random_table(12, seed=1)
DRAFT = TARGET + random_table(12, seed=2, scale=0.7)


def texts(drafter: ChainDrafter | None, settings: dict) -> tuple[list[tuple[int, ...]], Engine]:
    engine = Engine(
        TableModel(TARGET),
        drafter,
        num_draft_tokens=4,
        limits=EngineLimits(kv_bytes=5000, max_sequences=4, max_waiting=10),
        eos_ids=frozenset(),
    )
    found: dict[str, tuple[int, ...]] = {}
    for index in range(6):
        # Texts of different lengths: near its end a sequence drafts fewer tokens than others.
        params = SamplingParams(max_tokens=9 + index, **settings)
        found[str(index)] = ()
        engine.add(GenerationRequest(str(index), (1, index + 2), params, seed=index))
    while engine.has_work:
        for output in engine.step():
            found[output.request_id] += output.tokens
    engine.check_idle()
    return list(found.values()), engine


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 0.9, "top_p": 0.9, "logit_bias": {3: 1.0}},
        {"temperature": 0.9, "repetition_penalty": 1.2},
    ],
    ids=["greedy", "sampled", "penalised"],
)
def test_the_same_guesses_as_when_the_processor_looks_at_each(settings):
    """Ragged batches give the same text and the same counts of drafted and accepted tokens."""
    plain, _ = texts(None, settings)
    seen, known = texts(ChainDrafter(TableModel(DRAFT)), settings)
    apart, engine = texts(ApartChainDrafter(TableModel(DRAFT)), settings)
    assert apart == seen == plain
    assert engine.counters == known.counters
    assert engine.counters.accepted_tokens > 0


def test_a_round_fetches_ids_once(monkeypatch):
    """Whatever the depth and the number of sequences, one copy of a few numbers leaves the device."""
    fetched = []
    download = apart_module.download

    def recording(tensor):
        fetched.append(tensor.numel())
        return download(tensor)

    monkeypatch.setattr(apart_module, "download", recording)
    _, engine = texts(ApartChainDrafter(TableModel(DRAFT)), {"temperature": 0.0})
    assert sum(fetched) == engine.counters.draft_tokens
    assert max(fetched) == 16
    assert len(fetched) <= engine.counters.drafts
