"""What `motley plan render` writes of a placed training plan, against the plan it came from."""

import csv
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from io import StringIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from placed_plans import placed_content, placed_plan

from planner.errors import RenderError
from planner.render.folder import write_folder
from planner.render.megatron import pipeline_layout
from planner.render.targets import TRAINING_TARGETS, TrainingTargetName, render_training
from planner.render.torchtitan import stage_modules
from planner.render.training_job import training_job
from planner.render.training_network import ACROSS_GROUPS, INSIDE_GROUPS
from planner.training.training_plan import TrainingPlan

GOLDEN = Path(__file__).parents[2] / "golden" / "rendered"


@pytest.mark.parametrize("target", TRAINING_TARGETS)
def test_golden_files(target: TrainingTargetName) -> None:
    """Each target's files are, letter for letter, the reviewed ones.

    `python tests/rendered/render.py --golden` writes them anew.
    """
    folder = GOLDEN / target
    golden = {path.name: path.read_text() for path in folder.iterdir()}
    assert render_training(placed_plan(), target) == golden


def test_the_layout_is_the_plans_layers() -> None:
    """Embedding before the first stage's layers, loss behind the last one's."""
    assert pipeline_layout(training_job(placed_plan())) == "Et*8|t*10|t*10L"


def test_torchtitan_holds_each_layer_once() -> None:
    """The configuration is TOML, and its stages are the plan's."""
    text = render_training(placed_plan(), "torchtitan")["job.toml"]
    parallelism = tomllib.loads(text)["parallelism"]
    parts = parallelism["module_fqns_per_model_part"]
    assert parts == stage_modules(training_job(placed_plan()))
    names = [name for part in parts for name in part]
    layers = [f"layers.{number}" for number in range(28)]
    assert names == ["tok_embeddings", *layers, "norm", "output"]
    assert [sum(name in layers for name in part) for part in parts] == [8, 10, 10]
    assert parallelism["pipeline_parallel_degree"] == 3
    assert parallelism["data_parallel_shard_degree"] == 2


def test_one_stage_needs_no_layout() -> None:
    """Without a pipeline the batch is accumulated by the program itself, on the island's network."""
    plan = placed_plan(
        pipeline=1,
        num_micro_batches=16,
        stages=[
            {
                "island": 0,
                "num_layers": 28,
                "ranks": [0, 1, 2, 3],
                "data_link": "node",
                "tensor_link": "node",
            }
        ],
    )
    megatron = render_training(plan, "megatron")
    assert "layout" not in megatron["arguments.sh"]
    assert "export NCCL_NET=IB" in megatron["island-0-near.sh"]
    assert "start.py" not in megatron
    assert not any(name.startswith("nccl") for name in megatron)
    torchtitan = render_training(plan, "torchtitan")
    assert tomllib.loads(torchtitan["job.toml"])["training"]["local_batch_size"] == 1
    assert "export NCCL_NET=IB" in torchtitan["island-0-near.sh"]


def test_the_table_has_every_rank_where_both_programs_count_it() -> None:
    """Ranks run through tensor, context, data and stages in this order, and along the nodes."""
    table = list(csv.DictReader(StringIO(render_training(placed_plan(), "megatron")["ranks.csv"])))
    for number, row in enumerate(table):
        assert int(row["rank"]) == number
        assert int(row["tensor"]) == number % 2
        assert int(row["data"]) == number // 2 % 2
        assert int(row["stage"]) == number // 4
    starts = [node for node, _ in groupby(row["node_rank"] for row in table)]
    assert starts == ["0", "1", "2"]
    assert "12" not in {row["device"] for row in table}


def test_groups_inside_islands_keep_their_network() -> None:
    """RDMA within, sockets across; an island on Ethernet has sockets everywhere."""
    content = placed_content()
    content["cluster"]["islands"][1]["nic"] = "ethernet"
    files = render_training(TrainingPlan.model_validate(content), "megatron")
    near = yaml.safe_load(files["nccl-0-near.yaml"])
    assert {near[name]["net_name"] for name in INSIDE_GROUPS} == {"IB"}
    assert {near[name]["net_name"] for name in ACROSS_GROUPS} == {"socket"}
    far = yaml.safe_load(files["nccl-1-far-away.yaml"])
    assert {group["net_name"] for group in far.values()} == {"socket"}
    assert "export NCCL_IB_DISABLE=1" in files["island-1-far-away.sh"]
    assert "export NCCL_IB_DISABLE=0" in files["island-0-near.sh"]


def test_what_the_cluster_leaves_open_is_told() -> None:
    """RoCE without its GID index, and an island without an interface for sockets."""
    content = placed_content()
    content["cluster"]["islands"][1]["nic_gid_index"] = None
    text = render_training(TrainingPlan.model_validate(content), "megatron")["README.md"]
    assert "Island far/away has RoCE without `nic_gid_index`" in text
    assert "Island near has no `socket_interface`" in text


@pytest.mark.parametrize("target", TRAINING_TARGETS)
def test_scripts_start_every_node_once(target: TrainingTargetName, tmp_path: Path) -> None:
    """Run in a shell with torchrun replaced, each node gets its rank, processes and devices."""
    write_folder(tmp_path / "job", render_training(placed_plan(), target))
    node_ranks, starts = set(), 0
    for script, numbers in (("island-0-near.sh", "01"), ("island-1-far-away.sh", "0")):
        for number in numbers:
            words = started(tmp_path, script, number)
            assert words["--nnodes"] == "3"
            assert words["--nproc-per-node"] == "4"
            assert words["--master-addr"] == "10.0.0.1"
            node_ranks.add(words["--node-rank"])
            starts += 1
    assert node_ranks == {"0", "1", "2"}
    assert starts == 3


def test_megatrons_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    """Bars and stars of the layout survive the shell, and words of the user come along."""
    write_folder(tmp_path / "job", render_training(placed_plan(), "megatron"))
    words = started(tmp_path, "island-0-near.sh", "1", "--exit-interval", "5")
    assert words["--pipeline-model-parallel-layout"] == "Et*8|t*10|t*10L"
    assert words["--exit-interval"] == "5"
    assert words["--nccl-communicator-config-path"].endswith("/nccl-0-near.yaml")
    assert words["--global-batch-size"] == "32"


def test_a_node_without_a_part_is_refused(tmp_path: Path) -> None:
    """The script names the nodes that have one."""
    write_folder(tmp_path / "job", render_training(placed_plan(), "torchtitan"))
    done = run_script(tmp_path, "island-0-near.sh", "2")
    assert done.returncode == 2
    assert "island near has 0-1" in done.stderr


def test_the_wrapper_begins_on_sockets_and_runs_the_script(tmp_path: Path) -> None:
    """Only the group of all ranks is changed; arguments and modules are the script's own."""
    (tmp_path / "start.py").write_text(render_training(placed_plan(), "megatron")["start.py"])
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "distributed.py").write_text(
        "from types import SimpleNamespace\n"
        "class ProcessGroupNCCL:\n"
        "    class Options:\n"
        "        def __init__(self):\n"
        "            self.config = SimpleNamespace(net_name=None)\n"
        "def init_process_group(backend, pg_options=None):\n"
        "    print(backend, pg_options.config.net_name)\n"
    )
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "beside.py").write_text("NAME = 'beside'\n")
    (clone / "pretrain.py").write_text(
        "import sys, beside\nimport torch.distributed as dist\n"
        "dist.init_process_group('nccl')\nprint(beside.NAME, sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "start.py", clone / "pretrain.py", "--a", "1"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.splitlines() == ["nccl socket", "beside ['--a', '1']"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pipeline": 2}, "3 stages at pipeline degree 2"),
        ({"data": 1}, "other than tensor x context x data = 2 ranks"),
        ({"stages": [(1, 8, (8, 9, 10, 11)), (0, 20, (0, 1, 2, 11))]}, "a rank in two places"),
        (
            {"stages": [(1, 8, (8, 9, 10, 11)), (0, 20, (0, 1, 2, 13))]},
            "rank 13 in a cluster of 13",
        ),
        (
            {"stages": [(0, 8, (8, 9, 10, 11)), (0, 20, (0, 1, 2, 3))]},
            "stage 0 on another island",
        ),
        ({"stages": [(1, 8, (8, 9, 10, 11)), (0, 19, (0, 1, 2, 3))]}, "27 layers of a model of 28"),
        (
            {"stages": [(0, 8, (0, 1, 4, 5)), (0, 20, (2, 3, 6, 7))]},
            "stages come back to a node",
        ),
    ],
)
def test_placements_no_planner_wrote_are_refused(changes: dict[str, Any], problem: str) -> None:
    """They would become commands that hang."""
    if "stages" in changes:
        stages = [
            {"island": island, "num_layers": layers, "ranks": ranks}
            for island, layers, ranks in changes["stages"]
        ]
        changes = {"stages": stages, "pipeline": len(stages)}
    with pytest.raises(RenderError, match=problem) as caught:
        training_job(placed_plan(**changes))
    assert "plan again" in str(caught.value)


def test_a_plan_without_a_placement_is_refused() -> None:
    """Groups of sequences alone say nothing about stages."""
    content = placed_content() | {"placement": None}
    with pytest.raises(RenderError, match="has no placement"):
        render_training(TrainingPlan.model_validate(content), "megatron")


def test_torchtitan_refuses_heads_it_would_have_to_copy() -> None:
    """Megatron-LM copies them, and says which one does."""
    content = placed_content()
    content["costs"]["num_key_value_heads"] = 1
    plan = TrainingPlan.model_validate(content)
    with pytest.raises(
        RenderError, match="1 are not shared by tensor degree 2; render for megatron"
    ):
        render_training(plan, "torchtitan")
    assert "copies them" in render_training(plan, "megatron")["README.md"]


def run_script(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a rendered script with a torchrun that prints its words, a line each."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    fake = programs / "torchrun"
    fake.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MASTER_ADDR": "10.0.0.1",
        "MEGATRON": "/clone",
        "HIDDEN_SIZE": "3072",
        "FFN_HIDDEN_SIZE": "8192",
        "TOKENIZER_MODEL": "/tokenizer",
        "DATA_PATH": "/data",
        "TRAIN_ITERS": "10",
        "LR": "1e-5",
    }
    return subprocess.run(
        ["sh", folder / "job" / script, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def started(folder: Path, script: str, *words: str) -> Mapping[str, str]:
    """Return what torchrun was given: each option's value."""
    done = run_script(folder, script, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line.startswith("--") and "=" in line)
    return pairs | {name: value for name, value in pairwise(lines) if name.startswith("--")}
