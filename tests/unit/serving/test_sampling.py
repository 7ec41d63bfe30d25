import math
import random

import pytest
import torch
from pydantic import ValidationError
from toy_speculation import plain_distribution

from serving.engine.processors import RowHistories, TokenHistory, processed
from serving.engine.sampling import (
    SamplingParams,
    choices,
    distribution,
    greedy_ids,
    race_times,
    raced,
    raw_logprobs,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


def params(**fields: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 1} | fields)


def test_temperature_divides_the_logits():
    """At temperature 0.3, logits (2, 1, 0) give (.964, .034, .001)."""
    probs = distribution(LOGITS, params(temperature=0.3))
    assert torch.allclose(probs, torch.tensor([[0.9643, 0.0344, 0.0012]]), atol=1e-3)


def test_top_k_keeps_the_likeliest_and_renormalises():
    """Top-k of two leaves the odds of the two likeliest unchanged."""
    probs = distribution(LOGITS, params(top_k=2))
    assert probs[0, 2] == 0
    assert float(probs.sum()) == pytest.approx(1)
    assert float(probs[0, 0] / probs[0, 1]) == pytest.approx(2.71828, rel=1e-4)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-46, 1), (0.1, 1), (0.66, 1), (0.67, 2), (0.92, 3), (1.0, 3)]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass(top_p, kept):
    """Softmax of (2, 1, 0) is (.665, .245, .090); the likeliest token always stays."""
    assert int((distribution(LOGITS, params(top_p=top_p)) > 0).sum()) == kept


def test_races_belong_to_seed_and_position():
    """The same pair repeats; another seed or position races anew; fewer tokens race alike."""
    winners = {
        tuple(race_times(seed, position, 4).tolist())
        for seed in (0, 1, 2**63)
        for position in range(20)
    }
    assert len(winners) == 3 * 20
    assert torch.equal(race_times(5, 7, 9), race_times(5, 7, 9))
    assert torch.equal(race_times(5, 7, 900)[:9], race_times(5, 7, 9))


def test_race_times_are_exponential():
    """Mean and spread of many are 1, within a place and from place to place."""
    times = torch.stack([race_times(11, position, 50) for position in range(400)])
    assert float(times.mean()) == pytest.approx(1, abs=0.03)
    assert float(times.var()) == pytest.approx(1, abs=0.1)
    assert float(times[:, 0].mean()) == pytest.approx(1, abs=0.2)
    assert float(times.min()) > 0


def test_races_are_won_as_often_as_a_token_is_likely():
    """Logits (2, 1, 0) win with their softmax; a banned token never does."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])
    won = [choices(logits, params(), [race_times(seed, 3, 4)])[0] for seed in range(6000)]
    shares = [won.count(token) / len(won) for token in range(4)]
    assert shares == pytest.approx([0.665, 0.245, 0.090, 0.0], abs=0.02)


def test_the_largest_raced_log_probability_is_the_choice():
    """A beam that ranks by `raced` holds the token that `choices` names."""
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    races = [race_times(3, position, 40) for position in range(5)]
    for request in (params(), params(temperature=0), params(top_p=0.6, temperature=1.4)):
        assert raced(logits, request, races).argmax(-1).tolist() == choices(logits, request, races)


def random_params(rng: random.Random, vocabulary_size: int) -> SamplingParams:
    """Switch each processor on half of the time."""
    ids = range(vocabulary_size)
    choices = {
        "temperature": rng.choice([0.0, 0.3, 0.9, 2.0]),
        "top_p": rng.uniform(0.05, 0.999),
        "top_k": rng.randrange(1, vocabulary_size + 2),
        "min_p": rng.uniform(0, 0.4),
        "repetition_penalty": rng.choice([0.5, 1.2, 3.0]),
        "frequency_penalty": rng.uniform(-2, 2),
        "presence_penalty": rng.uniform(-2, 2),
        "logit_bias": {i: rng.uniform(-5, 5) for i in rng.sample(ids, 3)},
        "bad_token_ids": tuple(rng.sample(ids, 2)),
        "min_tokens": rng.randrange(8),
    }
    chosen = {name: value for name, value in choices.items() if rng.random() < 0.5}
    return params(max_tokens=100, **chosen)


@pytest.mark.parametrize("seed", range(40))
def test_every_row_follows_the_definitions_with_its_own_history(seed):
    """Random settings over the rows of a tree equal each row done alone in plain Python."""
    rng = random.Random(seed)
    size, end_ids = 9, (0, 3)
    prompt, text = (rng.choices(range(size), k=k) for k in (rng.randrange(6), rng.randrange(6)))
    paths = [rng.choices(range(size), k=rng.randrange(4)) for _ in range(5)]
    logits = torch.randn(5, size, generator=torch.Generator().manual_seed(seed)) * 3
    mask = torch.rand(5, size, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, rng.randrange(size)] = True
    has_grammar = rng.random() < 0.5
    history = TokenHistory(prompt, end_ids=end_ids)
    history.extend(text[:2])
    history.extend(text[2:])
    settings = random_params(rng, size)
    before = logits.clone()
    rows = distribution(
        logits, settings, RowHistories(history, paths, mask if has_grammar else None)
    )
    assert torch.equal(logits, before)
    for row, path in enumerate(paths):
        expected = plain_distribution(
            logits[row].tolist(),
            settings,
            prompt,
            [*text, *path],
            end_ids=end_ids,
            allowed=mask[row].nonzero().flatten().tolist() if has_grammar else None,
        )
        assert rows[row].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_processors_that_are_off_copy_nothing(dtype):
    """Float32 logits come back as they are, the same tensor; others are only converted."""
    logits = LOGITS.to(dtype)
    history = RowHistories(TokenHistory([1, 2]), [()])
    result = processed(logits, params(), history)
    assert torch.equal(result, LOGITS)
    assert (result is logits) == (dtype is torch.float32)
    penalised = processed(logits, params(repetition_penalty=2.0), history)
    assert torch.equal(logits, LOGITS.to(dtype))
    assert penalised.tolist() == [[2.0, 0.5, 0.0]]


def test_penalties_change_the_greedy_choice():
    """A frequency penalty on the likeliest token lets the next one win, on that path only."""
    history = TokenHistory([0])
    rows = RowHistories(history, [(), (0,)])
    settings = params(temperature=0, frequency_penalty=1.5)
    logits = LOGITS.expand(2, 3)
    assert greedy_ids(logits, settings, rows) == [0, 1]
    assert distribution(logits, settings, rows).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_greedy_ties_go_to_the_lowest_id():
    """The likeliest of equals is the first, in ids and in distributions."""
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0]])
    assert greedy_ids(logits, params(temperature=0)) == [1]
    assert distribution(logits, params(temperature=0)).tolist() == [[0, 1, 0, 0]]


def test_a_prompt_counts_for_the_repetition_penalty_only():
    """Presence and frequency look at the answer; repetition at both, as in vLLM."""
    history = RowHistories(TokenHistory([0, 0]), [()])
    only_answer = params(presence_penalty=1.0, frequency_penalty=1.0)
    assert processed(LOGITS, only_answer, history).tolist() == LOGITS.tolist()
    assert processed(LOGITS, params(repetition_penalty=2.0), history).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("penalty", [5e-324, 1e-40, 1e40, 1e308])
@pytest.mark.parametrize("temperature", [0, 1e-5, 1])
def test_no_repetition_penalty_leaves_the_numbers(penalty, temperature):
    """A client may send any positive number; the distribution is one all the same."""
    logits = torch.tensor([[900.0, -900.0, 0.0, 1.0]])
    history = RowHistories(TokenHistory([0, 1, 2]), [()])
    settings = params(repetition_penalty=penalty, temperature=temperature)
    assert distribution(logits, settings, history).sum().item() == pytest.approx(1)
    favoured = 0 if penalty < 1 else 3
    assert processed(logits, settings, history).argmax().item() == favoured


def test_no_text_ends_before_its_least_tokens():
    """Ends are ruled out while the row's own text is too short, drafted tokens counted."""
    history = TokenHistory([5, 5, 5], end_ids=[0])
    history.extend([1])
    rows = RowHistories(history, [(), (1,), (1, 1)])
    logits = processed(LOGITS.expand(3, 3), params(max_tokens=9, min_tokens=3), rows)
    assert logits[:, 0].tolist() == [-math.inf, -math.inf, 2.0]


def test_a_grammar_that_must_end_goes_before_the_least_tokens():
    """Where only an end is grammatical, the text ends early instead of being stuck."""
    rows = RowHistories(TokenHistory([], end_ids=[2]), [()], torch.tensor([[False, False, True]]))
    settings = params(max_tokens=9, min_tokens=3)
    assert distribution(LOGITS, settings, rows).tolist() == [[0, 0, 1]]


def test_top_p_over_a_large_flat_vocabulary_is_exact():
    """Where the usual number of tokens does not reach the mass, more are looked at."""
    logits = torch.linspace(0, 1, 3000)[None]
    probs = distribution(logits, params(top_p=0.7))
    plain = logits.double().softmax(-1)[0].flip(0)
    expected = int((plain.cumsum(0) - plain < 0.7).sum())
    assert abs(int((probs > 0).sum()) - expected) <= 1
    assert float(probs.sum()) == pytest.approx(1, abs=1e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    """Bit for bit the same alone and among others, whatever processors are on."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 2048, generator=generator) * 4
    paths = [(i, 3) for i in range(7)]
    settings = params(temperature=0.7, top_p=0.9, top_k=50, min_p=0.01, repetition_penalty=1.1)
    history = TokenHistory(range(100))
    together = distribution(logits, settings, RowHistories(history, paths))
    for row in range(7):
        alone = distribution(
            logits[row : row + 1], settings, RowHistories(history, paths[row : row + 1])
        )
        assert torch.equal(alone[0], together[row])


def test_log_probabilities_are_those_of_the_model_itself():
    """Neither temperature nor any other processor enters; ranks start at 1, equals share one."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    first, second = raw_logprobs(logits, [1, 2], num_top=2)
    assert first.logprob == pytest.approx(math.log(0.24473), abs=1e-4)
    assert first.rank == 2
    assert [token for token, _ in first.top] == [0, 1]
    assert second.rank == 1
    assert second.logprob == pytest.approx(-math.log(3))
    assert raw_logprobs(logits, [0, 0], num_top=0)[0].top == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {3: 101}}, "logit_bias"),
        ({"logit_bias": {-1: 1}}, "logit_bias"),
        ({"bad_token_ids": (-1,)}, "bad_token_ids"),
        ({"num_logprobs": 21}, "num_logprobs"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens 5 is above max_tokens 4"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(fields, message):
    """The error names the field."""
    with pytest.raises(ValidationError, match=message):
        params(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": {9: 1}}, "logit_bias holds token 9; ids go from 0 to 2"),
        ({"stop_token_ids": (3,)}, "stop_token_ids holds token 3"),
        ({"bad_token_ids": (0, 1), "stop_token_ids": (2,)}, "hold all 3 ids"),
    ],
    ids=str,
)
def test_ids_the_model_does_not_have_are_refused(fields, message):
    """So is a ban that leaves nothing."""
    params(bad_token_ids=(2,), logit_bias={0: 1}).check_ids(3)
    with pytest.raises(ValueError, match=message):
        params(**fields).check_ids(3)
