"""The files of every training target: a start script an island, the table of ranks, the README."""

import shlex
from collections.abc import Mapping, Sequence

from planner.placing.report import degrees_text, ranks_text
from planner.render.training_job import TrainingJob

RANK_COLUMNS = "rank,island,node,node_rank,local_rank,device,stage,data,context,tensor"


def island_script(
    job: TrainingJob, island: int, variables: Mapping[str, str], command: Sequence[str]
) -> str:
    """Return the script that starts one node of an island.

    Args:
        job: What is rendered.
        island: Position of the island.
        variables: Environment of its processes.
        command: Lines of shell after torchrun's own arguments, backslashes at line ends left out.
    """
    name, nodes = job.island(island).name, job.island_nodes(island)
    numbers = [node.number for node in nodes]
    first = job.nodes[0]
    head = f"node {first.number} of island {job.island(first.island).name}"
    settings = [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
    cases = [
        f"  {node.number}) node_rank={node.node_rank} processes={len(node.ranks)} "
        f"devices={','.join(map(str, node.devices))} ;;"
        for node in nodes
    ]
    lines = [
        "#!/bin/sh",
        f"# Island {name}: run once on each of its nodes, with the node's number in the island.",
        "set -eu",
        'here=$(cd "$(dirname "$0")" && pwd)',
        f'node=${{1:?"give the number of this node: {ranks_text(tuple(numbers))}"}}',
        "shift",
        f': "${{MASTER_ADDR:?"set it to an address of {head}, which all nodes reach"}}"',
        'case "$node" in',
        *cases,
        f'  *) echo "node $node has no part in this job; island {name} has '
        f'{ranks_text(tuple(numbers))}" >&2; exit 2 ;;',
        "esac",
        *settings,
        'export CUDA_VISIBLE_DEVICES="$devices"',
        "exec torchrun \\",
        f"  --nnodes={len(job.nodes)} \\",
        '  --node-rank="$node_rank" \\',
        '  --nproc-per-node="$processes" \\',
        '  --master-addr="$MASTER_ADDR" \\',
        '  --master-port="${MASTER_PORT:-29500}" \\',
        " \\\n".join(f"  {line}" for line in command),
        "",
    ]
    return "\n".join(lines)


def rank_table(job: TrainingJob) -> str:
    """Return every process of the job as CSV: where it runs, what it holds."""
    rows = [
        f"{each.rank},{job.island(node.island).name},{node.number},{node.node_rank},"
        f"{each.local_rank},{each.device},{each.stage},{each.data},{each.context},{each.tensor}"
        for node in job.nodes
        for each in node.ranks
    ]
    return "\n".join([RANK_COLUMNS, *rows, ""])


def training_readme(job: TrainingJob, target: str, how: str, *remarks: str) -> str:
    """Return what the folder holds, how to start it, and what its reader must know."""
    placed = job.placement
    rows = [
        f"| {number} | {job.island(stage.island).name} | {stage.num_layers} "
        f"| {ranks_text(stage.ranks)} | {stage.tensor_link} | {stage.data_link} "
        f"| {stage.next_link} | {stage.memory_bytes / 2**30:.1f} |"
        for number, stage in enumerate(placed.stages)
    ]
    starts = [
        f"sh island-{job.island_file(island)}.sh NODE    # NODE "
        f"{ranks_text(tuple(node.number for node in job.island_nodes(island)))}"
        for island in job.islands
    ]
    played = (
        "" if placed.simulated_seconds is None else f", {placed.simulated_seconds:.4g} s played"
    )
    groups = (
        "The plan's groups of sequences, batch by batch, are what `motley finetune local` trains; here "
        f"every sequence has {placed.sequence_tokens:,} tokens, shorter ones packed into one"
    )
    said = (*remarks, groups, *placed.reasons)
    return "\n".join(
        [
            f"# {job.plan.model} for {target}",
            "",
            f"Rendered by `motley plan render`: {degrees_text(placed)}; "
            f"{job.global_batch_sequences} sequences of {placed.sequence_tokens:,} tokens a step, "
            f"{placed.num_micro_batches} micro-batches of {placed.micro_batch_sequences} a copy. "
            f"A step should take {placed.predicted_seconds:.4g} s{played}.",
            "",
            "| stage | island | layers | devices of the plan | tensor by | gradients by | on by "
            "| GiB a device |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "## To run it",
            "",
            how,
            "",
            "```",
            *starts,
            "```",
            "",
            "`ranks.csv` says what each process holds.",
            "",
            "## To know",
            "",
            *(f"- {remark[0].upper()}{remark[1:]}." for remark in said),
            "",
        ]
    )
