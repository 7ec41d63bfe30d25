"""`motley plan training` from files to plan, plot and costs."""

import json

import pytest
import yaml
from training_fleets import cluster, costs, island

import motley
from planner.training.find_costs import published_costs
from planner.training.training_plan import TrainingPlan

LENGTHS = "900\n30\n0\n450\n5000\n120\n60\n200\n"


@pytest.fixture
def files(tmp_path):
    """Return the paths of a cluster, its costs and some lengths."""
    paths = {name: tmp_path / name for name in ("cluster.yaml", "costs.yaml", "lengths.txt")}
    place = cluster(island(num_nodes=2), island("b", relative_speed=0.5, nic="roce"))
    paths["cluster.yaml"].write_text(yaml.safe_dump(place.model_dump(mode="json")))
    paths["costs.yaml"].write_text(yaml.safe_dump(costs().model_dump(mode="json")))
    paths["lengths.txt"].write_text(LENGTHS)
    return paths


@pytest.fixture
def plan(files, capsys):
    """Return a function that runs the command on the files; it gives status, output and errors."""

    def plan(*words, without=()):
        given = {"--costs": files["costs.yaml"], "--lengths": files["lengths.txt"]}
        given = [
            str(word)
            for name, path in given.items()
            if name not in without
            for word in (name, path)
        ]
        status = motley.main(["plan", "training", str(files["cluster.yaml"]), *given, *words])
        text = capsys.readouterr()
        return status, text.out, text.err

    return plan


def test_lengths_become_a_plan_with_its_comparisons(plan, tmp_path):
    """What is too long or empty is counted; the document reads back; the plot is a picture."""
    pytest.importorskip("matplotlib")
    status, out, _ = plan(
        "--max-tokens", "2000", "--batch-size", "4",
        "--output", str(tmp_path / "plan.json"), "--plot", str(tmp_path / "plan.png"),
    )  # fmt: skip
    assert status == 0
    assert "left out: 1 sequences above 2000 tokens, 1 without a token" in out
    assert "best single degree a batch" in out
    assert "one degree for all batches" in out
    found = TrainingPlan.model_validate_json((tmp_path / "plan.json").read_text())
    assert [batch.lengths for batch in found.batches] == [(900, 30, 450, 120), (60, 200)]
    assert found.not_runnable is None
    for batch in found.batches:
        assert batch.lower_bound_seconds <= batch.predicted_seconds
        assert batch.predicted_seconds <= batch.homogeneous.predicted_seconds
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_is_never_slower_than_the_heuristic(plan, tmp_path):
    """Both solvers on the same batch."""
    seconds = {}
    for solver in ("heuristic", "milp"):
        file = tmp_path / f"{solver}.json"
        assert plan("--max-tokens", "2000", "--solver", solver, "--output", str(file))[0] == 0
        seconds[solver] = json.loads(file.read_text())["batches"][0]["predicted_seconds"]
    assert seconds["milp"] <= seconds["heuristic"]


def test_ignored_heads_make_a_plan_that_says_it_does_not_run(plan, tmp_path):
    """Four heads on twelve devices offer 1, 2 and 4; ignored, 8 too."""
    file = tmp_path / "plan.json"
    assert plan("--max-tokens", "2000", "--ignore-heads", "--output", str(file))[0] == 0
    assert "--ignore-heads" in json.loads(file.read_text())["not_runnable"]


def test_rates_beyond_the_measured_degrees_are_told(plan, files):
    """A table up to 2 on twelve devices."""
    table = costs(all_to_all_bytes_per_second={2: 500.0})
    files["costs.yaml"].write_text(yaml.safe_dump(table.model_dump(mode="json")))
    _, out, _ = plan("--max-tokens", "4000")
    assert "note: " in out
    assert "measured" in out


def test_unlike_devices_are_compared_with_passing_over_the_difference(plan):
    """Both naive ways are told, and neither is faster than the plan."""
    _, out, _ = plan("--max-tokens", "4000")
    for how in ("slow devices ignored: ", "all devices treated as the slowest: "):
        (line,) = [line for line in out.splitlines() if how in line]
        assert float(line.rpartition(" ms, ")[2].partition("x")[0]) >= 1.0


def test_a_published_name_stands_for_its_costs():
    """The three models of the paper, by name; 30B's heads are 52."""
    assert published_costs("flexsp-30b").num_query_heads == 52


@pytest.mark.parametrize(
    ("words", "without", "status", "told"),
    [
        ((), (), 3, "5000"),
        (("--max-tokens", "20"), (), 2, "none of 8 sequences"),
        (("--static-degree", "3"), (), 2, "--static-degree 3: offered are [1, 2, 4]"),
        ((), ("--lengths",), 2, "--lengths is missing"),
        ((), ("--costs",), 2, "neither --model nor --costs"),
        (("--max-tokens", "2000", "--place"), (), 2, "--place needs the model"),
        (("--costs", "flexsp-8b"), ("--costs",), 2, "flexsp-7b"),
        (("--calibrate", "nowhere.jsonl"), (), 2, "no such file"),
    ],
)
def test_bad_words_get_one_line(plan, words, without, status, told):
    """What, the value, what to do; and the status of the kind of failure."""
    found, _, err = plan(*words, without=without)
    assert found == status
    assert told in err
    assert "Traceback" not in err


def test_a_plan_never_replaces_what_it_reads(plan, files):
    """Lengths are not overwritten by the plan of them."""
    for name in ("lengths.txt", "costs.yaml"):
        before = files[name].read_text()
        found, _, err = plan("--max-tokens", "2000", "--output", str(files[name]))
        assert found == 2
        assert "both read and to be written" in err
        assert files[name].read_text() == before


def test_measured_groups_become_costs_that_plan(plan, tmp_path):
    """The fitted file serves as --costs."""
    lines = [
        {
            "lengths": [100 * n],
            "ranks": ranks,
            "seconds": 0.3 + n * n / (3.0 * len(ranks)) + exchanged * n,
        }
        for n in range(1, 7)
        for ranks, exchanged in (([0], 0.0), ([0, 1], 3.2))  # as fast as the node's link
    ]
    steps, fitted = tmp_path / "steps.jsonl", tmp_path / "fitted.yaml"
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, _ = plan("--calibrate", str(steps), "--output", str(fitted))
    assert status == 0
    assert "median error 0.0%" in out
    words = ("--model", "Qwen/Qwen2.5-7B-Instruct", "--calibrate", str(steps))
    assert plan(*words, without=("--costs",))[0] == 0  # the device "toy" is in no list
    words = ("--max-tokens", "2000", "--costs", str(fitted))
    assert plan(*words, without=("--costs",))[0] == 0
