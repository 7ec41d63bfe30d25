"""What the speculation benchmark computes from its measurements."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import speculation_contestants
from benchmarks.repeated_text import repeated_fraction
from benchmarks.rival_environments import RivalError
from benchmarks.speculation_bars import Bar, bars_table, shape_bars
from benchmarks.speculation_contestants import Contestant, Measured
from benchmarks.speculation_race import Entry, Result, blocks_of, equal_fraction, race, ratio
from benchmarks.speculation_tables import everything, rates_table
from benchmarks.speculation_tiny import AUTO, tiny_bars


def measured(seconds, tokens, *, drafts=0, accepted=(), draft_seconds=0.0):
    shared = (drafts, 4 * drafts, list(accepted), 2**20, 2**20, draft_seconds)
    return Measured(seconds, tokens, *shared)


def result(seconds_by_prompt, *, num_tokens=10):
    made = Result()
    for number, seconds in seconds_by_prompt.items():
        for each in seconds:
            made.add([number], measured([each], [[7] * num_tokens]))
    return made


def test_text_without_a_repeated_8_gram_has_none():
    """A text of different tokens repeats nothing."""
    assert repeated_fraction(range(20), range(20, 40)) == 0


def test_a_copied_8_gram_counts_where_it_was_generated():
    """Eight tokens of sixteen are copied from the prompt: half of the generated ones."""
    assert repeated_fraction(range(8), [*range(8), *range(100, 108)]) == 0.5


def test_a_loop_is_repeated_through_and_through():
    """A text of one token is inside repeated 8-grams everywhere."""
    assert repeated_fraction([1], [5] * 32) == 1


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("least", 1.8, 1.8), "met"),
        (Bar("least", 1.79, 1.8), "MISSED"),
        (Bar("most", 2.5, 2.5, is_ceiling=True), "met"),
        (Bar("most", 2.51, 2.5, is_ceiling=True), "MISSED"),
        (Bar("unknown", None, 1.0), "not measured"),
    ],
)
def test_a_bar_says_whether_it_is_met(bar, verdict):
    """A bar is met at its limit, missed beyond, and never met without a figure."""
    assert bar.verdict == verdict
    assert bars_table("bars", [bar]).row_count == 1


def test_rates_are_of_the_prompts_that_count():
    """Two repetitions of two prompts: tokens over seconds, for all and for one of them."""
    both = result({0: [1.0, 2.0], 1: [4.0, 3.0]})
    assert both.rates(everything) == [4.0, 4.0]
    assert both.rates(lambda number: number == 0) == [10.0, 5.0]
    assert both.rate(lambda number: number == 0) == 7.5
    assert both.rate(lambda number: False) is None


def test_a_ratio_compares_within_each_repetition():
    """A machine that is twice as slow in the second repetition changes no ratio."""
    assert ratio(result({0: [1.0, 2.0]}), result({0: [2.0, 4.0]}), everything) == 2.0


def test_concurrent_prompts_share_their_seconds():
    """Two prompts in one second are twice the rate of one prompt in one second."""
    at_once = Result()
    at_once.add([0, 1], measured([1.0], [[7] * 10, [8] * 10]))
    assert at_once.rates(everything) == [20.0]


def test_acceptance_is_by_position_of_drafting_rounds():
    """Ten rounds of which six accepted one token and three a second one."""
    drafted = Result()
    drafted.add([0], measured([1.0], [[7] * 10], drafts=4, accepted=(2,)))
    drafted.add([1], measured([1.0], [[7] * 10], drafts=6, accepted=(4, 3)))
    assert drafted.acceptance == [0.6, 0.3]
    assert drafted.tokens_per_round == 1.9


def test_equal_text_ends_at_the_first_difference():
    """What follows a difference is another text, even where tokens coincide."""
    ours, theirs = Result(texts={0: [1, 2, 3, 4]}), Result(texts={0: [1, 9, 3, 4]})
    assert equal_fraction(ours, theirs) == 0.25
    assert equal_fraction(ours, Result()) is None


def test_blocks_keep_every_prompt_once():
    """Ten prompts are a block of eight and what is left."""
    assert list(blocks_of(range(10))) == [list(range(8)), [8, 9]]


def test_a_rival_that_failed_is_a_row_that_says_why():
    """No silence: the reason stands in the row, and the others run on."""
    failed = Contestant("rival", "", {}, failure="pip wheel failed: no compiler")
    results = race(
        [Entry("rival", failed, "none")], [[0]], [[1]], title="t", repetitions=2, new_tokens=4
    )
    assert results["rival"].failure == "pip wheel failed: no compiler"
    table = rates_table("t", results, result({0: [1.0]}), everything, is_greedy=True)
    assert "no compiler" in next(iter(table.columns[1].cells))


def test_the_tiny_bars_take_the_best_drafter_and_the_faster_assistant():
    """Best of ours over none, over the faster of two assisted rows, and eight streams over one."""
    one = {
        "motley": result({0: [4.0]}),
        "motley, n-gram": result({0: [2.0]}),
        "motley, small model, chain": result({0: [1.0]}),
        "transformers": result({0: [5.0]}),
        "transformers, assisted": result({0: [3.0]}),
        "transformers, assisted by 6 tokens": result({0: [2.0]}),
    }
    eight = {"motley": result({0: [1.0]}), "motley, n-gram": result({0: [2.0]})}
    eight[AUTO] = result({0: [1.0]})
    bars = tiny_bars(one, eight, everything)
    assert [bar.value for bar in bars] == [4.0, 2.0, 1.25, 4.0, 1.0, None]
    assert bars[0].name == "motley, small model, chain / without drafting"
    assert bars[1].name.endswith("assisted by 6 tokens")


def test_a_mode_that_is_not_built_yet_is_no_figure():
    """Without a calibrated row its bar says that it was not measured."""
    plain = {"motley": result({0: [1.0]})}
    assert tiny_bars(plain, plain, everything)[-2].verdict == "not measured"


def test_the_head_is_held_against_the_small_model_by_what_drafting_costs():
    """Six tokens in two seconds of drafting are 1.5 times as many a second as six in three."""
    one = {"motley": result({0: [1.0]})}
    for name, seconds in (("motley, head, tree", 2.0), ("motley, small model, chain", 3.0)):
        one[name] = Result()
        drafted = measured([1.0], [[7] * 9], drafts=3, accepted=(4, 2), draft_seconds=seconds)
        one[name].add([0], drafted)
    assert tiny_bars(one, one, everything)[-1].value == pytest.approx(1.5)


def test_the_shape_bars_name_their_thread_count():
    """Rows of one thread give five bars; a weight type that did not run gives no figure."""
    row = {
        "kind": "float32",
        "threads": 1,
        "ratios": {4: 1.1, 16: 2.0},
        "step_fraction_of_bandwidth": 0.59,
        "single_row_rate_of_float32": 1.0,
    }
    verdicts = [bar.verdict for bar in shape_bars([row])]
    assert verdicts == ["met", "not measured", "MISSED", "not measured", "not measured"]


WORKER = """
from benchmarks.speculation_worker import Texts, serve


def start(options):
    def generate(call):
        print("libraries print")
        if call.mode == "bad":
            raise ValueError("no such mode")
        return Texts([[options["token"]] * call.new_tokens])

    return generate


serve(start)
"""


def test_a_process_goes_on_after_a_mode_that_failed():
    """A call that raises is answered with its reason, the next with its texts; prints get lost."""
    request = {"prompts": [[1]], "seeds": [0], "new_tokens": 3, "temperature": 0.0}
    lines = [json.dumps(request | {"concurrent": False, "mode": m}) for m in ("bad", "good")]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, '{"token": 7}'],
        cwd=Path(__file__).parents[2],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ready, failed, answered = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    assert failed == {"failed": "ValueError: no such mode"}
    assert answered["tokens"] == [[7, 7, 7]]
    assert 0 < answered["own_bytes"] <= answered["peak_bytes"]


def test_a_process_that_was_killed_is_a_reason(tmp_path, monkeypatch):
    """A contestant that ends by itself says with which code and where its log is."""
    monkeypatch.setattr(speculation_contestants, "LOGS", tmp_path)
    with Contestant("gone", "no_such_worker", {"threads": 1}) as contestant:
        with pytest.raises(RivalError, match=r"process ended with 1; its log is .*gone\.log"):
            contestant.measure([[1]], mode="none", new_tokens=1)
        with pytest.raises(RivalError, match="process ended"):
            contestant.measure([[1]], mode="none", new_tokens=1)
