"""What races, acceptance and processors emit together follows the target's joint law.

A toy loop over the engine's pure parts runs thousands of times for each case; the law of three
tokens is enumerated from the definitions of the processors. Every rule, draft and setting is in the
default run; the rest of their combinations, and 10,000 runs of each, are marked slow.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from toy_model import random_table
from toy_speculation import TREE_MAKERS, Toy

from serving.engine.sampling import SamplingParams

VOCABULARY = 5
NUM_TOKENS = 3
NUM_RUNS = 10_000
DEFAULT_RUNS = 2_500
TARGET = random_table(VOCABULARY, seed=1)
DRAFTS = {"perfect": TARGET, "random": random_table(VOCABULARY, seed=2), "bad": -TARGET}
GRAMMAR = [{0: 1, 2: 1, 4: 0}, {1: 0, 2: 2}, {0: 0, 1: 1, 3: 2, 4: 2}]
SETTINGS = [
    {"temperature": 0.3},
    {"temperature": 1.0},
    {"temperature": 1.7},
    {"top_p": 0.8},
    {"top_k": 3},
    {"min_p": 0.2},
    {"repetition_penalty": 1.8, "temperature": 1.2},
    {"frequency_penalty": 1.5, "presence_penalty": -0.7},
    {"logit_bias": {1: 2.5, 3: -100.0}},
    {"min_tokens": 2, "bad_token_ids": (4,)},
    {"grammar": True},
    {
        "grammar": True,
        "temperature": 1.3,
        "top_p": 0.95,
        "top_k": 4,
        "min_p": 0.02,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.5,
        "logit_bias": {2: 1.0},
        "min_tokens": 1,
    },
]


def toy(draft: str, settings: dict) -> Toy:
    fields = {name: value for name, value in settings.items() if name != "grammar"}
    params = SamplingParams(max_tokens=NUM_TOKENS, **fields)
    automaton = GRAMMAR if "grammar" in settings else None
    return Toy(TARGET, DRAFTS[draft], params, prompt=(2, 0), end_ids=(3,), automaton=automaton)


def all_races(num_runs: int, seed: int) -> torch.Tensor:
    """Times by run, position and token; a round looks two positions past the end."""
    shape = (num_runs, NUM_TOKENS + 2, VOCABULARY)
    return torch.from_numpy(np.random.default_rng(seed).standard_exponential(shape))


def cases() -> list:
    """Every rule with every setting; a part that holds each of them is run by default."""
    found = []
    for (i, rule), (j, settings) in itertools.product(enumerate(TREE_MAKERS), enumerate(SETTINGS)):
        for k, draft in enumerate(DRAFTS):
            is_default = (i + j // 4 + 1) % 3 == k and i == (j + 3) % 4
            name = f"{rule}-{draft}-{settings}"
            case = (rule, draft, settings)
            found.append(pytest.param(*case, NUM_RUNS, marks=pytest.mark.slow, id=name))
            if is_default:
                found.append(pytest.param(*case, DEFAULT_RUNS, id=f"{name}-{DEFAULT_RUNS}"))
    return found


@pytest.mark.parametrize(("rule", "draft", "settings", "num_runs"), cases())
def test_three_tokens_follow_the_targets_joint_law(rule, draft, settings, num_runs):
    """Chi-square of the runs against the enumerated law, p above 0.001."""
    experiment = toy(draft, settings)
    law = experiment.law(NUM_TOKENS)
    assert sum(law.values()) == pytest.approx(1)
    counts = dict.fromkeys(law, 0)
    for times in all_races(num_runs, seed=5):
        counts[experiment.run(TREE_MAKERS[rule], NUM_TOKENS, times)] += 1
    # Pearson's test wants about five expected in each cell: rare texts join the rarest common one.
    common = sorted((text for text in law if law[text] * num_runs >= 5), key=law.__getitem__)
    observed = [counts[text] for text in common]
    expected = [law[text] * num_runs for text in common]
    observed[0] += num_runs - sum(observed)
    expected[0] += num_runs - sum(expected)
    assert chisquare(observed, expected).pvalue > 0.001
