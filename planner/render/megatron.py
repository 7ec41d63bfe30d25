"""Megatron-LM: arguments, a start script an island, and which network each group takes.

Arguments are those of Megatron Core 0.14 and later, of which `--pipeline-model-parallel-layout` names
every stage's layers and `--nccl-communicator-config-path` each group's network.
"""

import shlex

from planner.render.options import Files
from planner.render.text import yaml_text
from planner.render.training_folder import island_script, rank_table, training_readme
from planner.render.training_job import TrainingJob
from planner.render.training_network import (
    group_networks,
    network_remarks,
    network_variables,
)

_HOW = """\
Put what the plan does not decide into `model.sh` (hidden size, tokenizer, data, learning rate: see the
file), set `MEGATRON` to a clone of Megatron-LM and `MASTER_ADDR` to the first node, copy this folder
to every node, and start each:"""

_REMARKS = (
    "The plan counts 16-bit gradients, 16 bytes a parameter in all: `--grad-reduce-in-bf16` keeps to "
    "that; without it gradients are float32, twice as long on the network, 2 bytes more a parameter",
    "Nothing is computed twice; with `--recompute-granularity` in `model.sh` memory falls and a step "
    "takes longer than planned",
)

_ACROSS = (
    "`nccl-*.yaml` puts groups inside an island on its own network and those across islands on sockets; "
    "`start.py` does the same for the group of all ranks, which has no entry there",
    "One communicator carries the whole pipeline: activations take sockets between stages of one island "
    "too",
)

_START = '''\
"""Runs a script with the group of all ranks on sockets, since RDMA ends at the island."""

import runpy
import sys
from pathlib import Path

import torch.distributed as dist

begin = dist.init_process_group


def begin_on_sockets(*arguments, **settings):
    """Begin with NCCL's choice of network made for this one group."""
    options = dist.ProcessGroupNCCL.Options()
    options.config.net_name = "socket"
    return begin(*arguments, **({"pg_options": options} | settings))


dist.init_process_group = begin_on_sockets
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
'''

_MODEL = """\
# What the plan does not decide: complete it after the model's config.json, as with --swiglu,
# --normalization RMSNorm, --position-embedding-type rope, --disable-bias-linear and, where embedding and
# head are not one table, --untie-embeddings-and-output-weights.
set -- "$@" \\
  --hidden-size "${HIDDEN_SIZE:?"set the width of the model"}" \\
  --ffn-hidden-size "${FFN_HIDDEN_SIZE:?"set the width of its feed-forward layers"}" \\
  --tokenizer-type HuggingFaceTokenizer \\
  --tokenizer-model "${TOKENIZER_MODEL:?"set the folder of its tokenizer"}" \\
  --data-path "${DATA_PATH:?"set the data, as made by tools/preprocess_data.py"}" \\
  --train-iters "${TRAIN_ITERS:?"set the number of steps"}" \\
  --lr "${LR:?"set the learning rate"}"
"""


def render_megatron(job: TrainingJob) -> Files:
    """Return scripts, arguments, group networks, table of ranks and notes."""
    files = {
        "arguments.sh": _arguments(job),
        "model.sh": _MODEL,
        "ranks.csv": rank_table(job),
    }
    script = '"$MEGATRON/pretrain_gpt.py" "$@"'
    command = [f'"$here/start.py" {script}'] if job.crosses_islands else [script]
    for island in job.islands:
        name = job.island_file(island)
        variables = network_variables(job, island, sockets_only=False)
        text = island_script(
            job, island, {**variables, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}, command
        )
        files[f"island-{name}.sh"] = _with_arguments(text, job, name)
        if job.crosses_islands:
            comment = f"Networks of Megatron-LM's groups in island {job.island(island).name}"
            files[f"nccl-{name}.yaml"] = yaml_text(group_networks(job, island), comment=comment)
    across = _ACROSS if job.crosses_islands else ()
    if job.crosses_islands:
        files["start.py"] = _START
    remarks = (*_REMARKS, *_copied_heads(job), *across, *network_remarks(job))
    return files | {"README.md": training_readme(job, "Megatron-LM", _HOW, *remarks)}


def pipeline_layout(job: TrainingJob) -> str:
    """Return Megatron-LM's words for the layers of each stage, such as `Et*26|t*22L`."""
    stages = [f"t*{stage.num_layers}" for stage in job.placement.stages]
    return "E" + "|".join(stages) + "L"


def _arguments(job: TrainingJob) -> str:
    placed, costs = job.placement, job.plan.costs
    words: dict[str, int | str] = {
        "--tensor-model-parallel-size": placed.tensor,
        "--context-parallel-size": placed.context,
        "--pipeline-model-parallel-size": placed.pipeline,
        "--num-layers": costs.num_layers,
        "--num-attention-heads": costs.num_query_heads,
        "--num-query-groups": costs.num_key_value_heads,
        "--kv-channels": costs.head_size,
        "--seq-length": placed.sequence_tokens,
        "--max-position-embeddings": placed.sequence_tokens,
        "--micro-batch-size": placed.micro_batch_sequences,
        "--global-batch-size": job.global_batch_sequences,
    }
    if placed.pipeline > 1:
        words["--pipeline-model-parallel-layout"] = pipeline_layout(job)
    switches = ["--group-query-attention", "--bf16", "--grad-reduce-in-bf16"]
    if placed.tensor > 1:
        switches.append("--sequence-parallel")
    if placed.data * placed.context > 1:
        switches += ["--use-distributed-optimizer", "--overlap-grad-reduce"]
    parts = [f"{name} {shlex.quote(str(value))}" for name, value in words.items()]
    body = " \\\n".join(f"  {part}" for part in [*parts, *switches])
    return f'# The placement; copied from the plan.\nset -- "$@" \\\n{body}\n'


def _copied_heads(job: TrainingJob) -> list[str]:
    heads, tensor = job.plan.costs.num_key_value_heads, job.placement.tensor
    if heads % tensor == 0:
        return []
    return [
        f"{heads} key-value heads are fewer than tensor degree {tensor}: it takes a Megatron Core that "
        "copies them, newer than 0.14"
    ]


def _with_arguments(text: str, job: TrainingJob, island_file: str) -> str:
    """Return the script with its arguments gathered before torchrun."""
    gather = [
        ': "${MEGATRON:?"set it to a clone of Megatron-LM"}"',
        '. "$here/arguments.sh"',
        '. "$here/model.sh"',
    ]
    if job.crosses_islands:
        gather.append(
            f'set -- "$@" --nccl-communicator-config-path "$here/nccl-{island_file}.yaml"'
        )
    return text.replace("exec torchrun", "\n".join([*gather, "exec torchrun"]))
