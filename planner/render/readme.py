"""The two files of every rendered folder that are about it: how to run it, and how to build Motley."""

import textwrap

from planner.render.fleet import RenderedFleet


def readme(fleet: RenderedFleet, target: str, how: str, *remarks: str) -> str:
    """Return what the folder holds, how to start it, and what its reader must know.

    Args:
        fleet: What was rendered.
        target: For what.
        how: Commands, as an indented block.
        remarks: Limits of the target, one sentence each.
    """
    plan = fleet.plan
    rows = [
        f"| {pool.name} | {pool.row.model} | {pool.row.offer} | {pool.row.replicas} "
        f"| {pool.engine} | {pool.row.cost_usd_per_hour:.2f} |"
        for pool in fleet.pools
    ]
    losses = [
        f"The plan survives the loss of market {loss.market}: then restart the router with "
        f"`router-without-{loss.market}.yaml` in the place of `router.yaml`"
        for loss in plan.market_losses
    ]
    notes = [f"- {note}." for note in (plan.latency, *losses, *remarks, *fleet.notes)]
    return "\n".join(
        [
            f"# Plan {fleet.plan_id} for {target}",
            "",
            f"Rendered by `motley plan render`. The fleet costs ${plan.cost_usd_per_hour:.2f}/h.",
            "",
            "| pool | model | offer | replicas | engine | $/h |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "## To run it",
            "",
            textwrap.dedent(how).strip("\n").join(["```\n", "\n```"]),
            "",
            "## To know",
            "",
            *notes,
            "",
        ]
    )


def dockerfile() -> str:
    """Return the recipe of the image that runs `motley route` and `motley serve`.

    torch comes first and pinned: a plain `torch` pulls gigabytes of CUDA libraries onto CPU hosts.
    """
    return textwrap.dedent(
        """\
        # docker build -t IMAGE -f Dockerfile CLONE_OF_MOTLEY
        FROM python:3.12-slim
        COPY . /motley
        RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir '/motley[serving]'
        EXPOSE 8000
        CMD ["motley", "--help"]
        """
    )
