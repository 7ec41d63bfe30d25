"""What is wrong with a job, in one line: what, the value, what to do."""

import pytest
import yaml

from finetune.job_file import read_job
from planner.errors import DocumentError

JOB = {
    "schema_version": 1, "name": "j", "model": "m", "rank": 2, "alpha": 4, "rounds": 2,
    "target_modules": ["q_proj"], "local_steps": 1, "batch_size": 1, "sequence_tokens": 8,
    "learning_rate": 0.1, "held_out_fraction": 0.1, "output": "o",
    "clients": [{"name": name, "data": {"kind": "package", "name": "rich"}} for name in "abcd"],
}  # fmt: skip
DENSITIES = {"download_density": 0.1, "upload_density": 0.1}


@pytest.fixture
def line(tmp_path):
    """Write the job with some keys changed; return why it is not read, without the file's name."""

    def line(changes):
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(JOB | changes))
        with pytest.raises(DocumentError) as caught:
            read_job(file)
        return str(caught.value).removeprefix(f"{file}: ")

    return line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 0}, "rank: give a number above 0 (got 0)"),
        ({"rank": 5000}, "rank: give 1024 or less (got 5000)"),
        ({"rank": "x"}, "rank: give a whole number (got 'x')"),
        ({"rank": 2.5}, "rank: give a whole number (got 2.5)"),
        ({"judge_every": -1}, "judge_every: give 0 or more (got -1)"),
        ({"held_out_fraction": 1.0}, "held_out_fraction: give a number below 1.0 (got 1.0)"),
        ({"learning_rate": float("nan")}, "learning_rate: give a finite number (got nan)"),
        ({"alpha": "four"}, "alpha: give a number (got 'four')"),
        (
            {"name": "a b"},
            "name: give letters, digits and ._-, a letter or digit first (got 'a b')",
        ),
        ({"name": 3}, "name: give a text; quote it where YAML reads a number or a date (got 3)"),
        ({"model": ""}, "model: give at least 1 characters (got '')"),
        ({"output": 3}, "output: give a path (got 3)"),
        ({"clients": 3}, "clients: must be a list (got 3)"),
        (
            {"clients": [{"name": "c", "data": {"kind": "sql"}}]},
            "clients.0.data: its 'kind' must be one of 'jsonl', 'package' (got {'kind': 'sql'})",
        ),
        (
            {"clients": [{"name": "c", "data": {"kind": "package", "name": "a.b"}}]},
            "clients.0.data.package.name: give a top-level import name (got 'a.b')",
        ),
        ({"final_rank": 4}, "final_rank: 4 is above rank 2; lower it"),
        ({"schema_version": 2}, "schema_version: is 2, read is 1; make the document again"),
        ({"target_modules": ["q", "q"]}, "target_modules: 'q' stands 2 times; give it once"),
        (
            {"deployment": {"address": "x:0", "certificates": "c"}},
            "deployment.address: port 0 does not exist; give 1 to 65535",
        ),
        (
            {"deployment": {"address": "x", "certificates": "c"}},
            "deployment.address: give HOST:PORT (got 'x')",
        ),
        (
            {"trust": {"secure_sum": {"threshold": 3}}},
            "trust.secure_sum: sums whole numbers below a bound; give clip_norm, or privacy",
        ),
        (
            {"sparsity": DENSITIES | {"kept_copies": 3}},
            "sparsity.kept_copies: 3 has no effect with `download: weights`, which remembers no "
            "copies; leave it out, or give `download: change`",
        ),
        (
            {"sparsity": DENSITIES | {"is_first_adapter_sent": True}},
            "sparsity.is_first_adapter_sent: True has no effect with `download: weights`, which "
            "remembers no copies; leave it out, or give `download: change`",
        ),
        ({"output": ""}, "output: is empty; name the run's folder (got '')"),
        (
            {"sparsity": "defualt"},
            "sparsity: give a block of its keys, or the word default (got 'defualt')",
        ),
        (
            {"scheduling": {"kind": "fedbuff", "buffer_size": 9}},
            "scheduling.buffer_size: 9 is more than the 4 clients; lower it",
        ),
        (
            {"scheduling": {"selection": {"kind": "uniform", "num_clients": 9}}},
            "scheduling.selection.num_clients: 9 is more than the 4 clients; lower it",
        ),
        (
            {"sparsity": DENSITIES, "aggregation": "fedsvd"},
            "sparsity with aggregation: the mean is exact while all hold one A, which this turns "
            "each round and a mask would tear; take ffa, whose A stays",
        ),
    ],
)
def test_a_mistake_is_told_in_our_words(line, changes, says):
    """The key by its path, the value, the remedy; nothing of the library's own language."""
    assert line(changes) == says


def test_the_aggregations_are_listed(line):
    """An unknown word is answered with those that are known."""
    assert line({"aggregation": "mean"}).startswith("aggregation: give 'fedavg', 'lora-fair'")
