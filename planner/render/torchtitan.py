"""torchtitan: a configuration and a start script an island.

Keys are those of torchtitan 0.2, the releases that read TOML files: `module_fqns_per_model_part` names
every stage's modules.
"""

from planner.errors import RenderError
from planner.render.options import Files
from planner.render.text import json_text
from planner.render.training_folder import island_script, rank_table, training_readme
from planner.render.training_job import TrainingJob
from planner.render.training_network import network_remarks, network_variables

_HOW = """\
Complete `[model]`, `[training]` and `[optimizer]` of `job.toml` (model, flavor, tokenizer, data, steps),
set `MASTER_ADDR` to the first node, copy this folder to every node, and start each where torchtitan is
installed:"""

_REMARKS = (
    "torchtitan shards weights, gradients and optimiser over the copies, so a device holds less than "
    "the plan counted; it reduces gradients in float32, twice the bytes that were planned",
    "Modules are named as in its Llama models: token table, layers, norm, output",
    "Nothing is computed twice: `activation_checkpoint.mode` is none, as planned",
)

_SOCKETS = (
    "torchtitan has one network setting for all groups of a process: where stages lie in several "
    "islands everything between nodes takes sockets, gradients too, and a step takes longer than "
    "planned; Megatron-LM takes a network for each group (`--target megatron`)"
)


def render_torchtitan(job: TrainingJob) -> Files:
    """Return configuration, scripts, table of ranks and notes.

    Raises:
        RenderError: If the key-value heads cannot be shared by the tensor degree.
    """
    heads, tensor = job.plan.costs.num_key_value_heads, job.placement.tensor
    if heads % tensor:
        raise RenderError(
            f"torchtitan does not copy key-value heads: {heads} are not shared by tensor degree "
            f"{tensor}; render for megatron"
        )
    files = {"job.toml": _configuration(job), "ranks.csv": rank_table(job)}
    for island in job.islands:
        variables = network_variables(job, island, sockets_only=job.crosses_islands)
        files[f"island-{job.island_file(island)}.sh"] = island_script(
            job,
            island,
            variables,
            ['-m torchtitan.train --job.config_file "$here/job.toml" "$@"'],
        )
    remarks = [*_REMARKS, *([_SOCKETS] if job.crosses_islands else []), *network_remarks(job)]
    return files | {"README.md": training_readme(job, "torchtitan", _HOW, *remarks)}


def stage_modules(job: TrainingJob) -> list[list[str]]:
    """Return the modules of each stage, in torchtitan's names."""
    stages, first = [], 0
    for stage in job.placement.stages:
        stages.append([f"layers.{layer}" for layer in range(first, first + stage.num_layers)])
        first += stage.num_layers
    stages[0].insert(0, "tok_embeddings")
    stages[-1] += ["norm", "output"]
    return stages


def _configuration(job: TrainingJob) -> str:
    placed = job.placement
    local = placed.micro_batch_sequences
    if placed.pipeline > 1:
        local *= placed.num_micro_batches
    lines = [
        "# Rendered by `motley plan render`; keys of torchtitan 0.2.",
        "",
        "[training]",
        f"local_batch_size = {local}",
        f"global_batch_size = {job.global_batch_sequences}",
        f"seq_len = {placed.sequence_tokens}",
        "",
        "[activation_checkpoint]",
        'mode = "none"',
        "",
        "[parallelism]",
        "data_parallel_replicate_degree = 1",
        f"data_parallel_shard_degree = {placed.data}",
        f"context_parallel_degree = {placed.context}",
        f"tensor_parallel_degree = {placed.tensor}",
        f"pipeline_parallel_degree = {placed.pipeline}",
    ]
    if placed.pipeline > 1:
        lines += [
            'pipeline_parallel_schedule = "1F1B"',
            f"pipeline_parallel_microbatch_size = {placed.micro_batch_sequences}",
            "module_fqns_per_model_part = [",
            *(f"  {_inline(modules)}," for modules in stage_modules(job)),
            "]",
        ]
    return "\n".join([*lines, ""])


def _inline(names: list[str]) -> str:
    """Return names as a list on one line, which JSON and TOML write alike."""
    return " ".join(json_text(names).split())
