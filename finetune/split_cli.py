"""`motley finetune split`: one text divided among clients, for experiments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Table

from finetune.data_split import (
    Document,
    by_dirichlet,
    by_label,
    files_of,
    most_common_label,
    read_lines,
    read_package,
)
from finetune.errors import SplitError
from planner.console import output
from planner.render.folder import check_folder, write_folder

CLIENTS_FILE = "clients.yaml"


def split_command(
    output_folder: Annotated[Path, typer.Option("--output", help="New folder for the files.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="JSON lines, as of a client.")
    ] = None,
    package: Annotated[
        str | None, typer.Option(help="In place of FILE: the sources of an installed package.")
    ] = None,
    by_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="One client of each value of this key of the lines."),
    ] = None,
    dirichlet: Annotated[
        float | None,
        typer.Option(metavar="ALPHA", help="Shares drawn at random; the lower, the more unequal."),
    ] = None,
    clients: Annotated[int | None, typer.Option(help="With --dirichlet: how many.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With --dirichlet: key of what a line is of. Default: its place in the file. Of a "
            "package: always `folder`.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --dirichlet: decides the draws.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder and whatever it holds.")
    ] = False,
) -> None:
    """Divide FILE among clients: a JSON lines file each, and the `clients` of a job.

    Every document goes to exactly one client. For text that is in several places already, this is
    not needed: name it in the job.
    """
    if (file is None) == (package is None):
        raise SplitError("one text is divided; give either FILE or --package")
    if (by_key is None) == (dirichlet is None):
        raise SplitError("one rule divides; give either --by-key or --dirichlet")
    check_folder(output_folder, force=force)
    if (output_folder / "job.json").exists():
        raise SplitError(f"--output {output_folder} holds a run, which would be lost; name another")
    if file is not None and output_folder.resolve() in file.resolve().parents:
        raise SplitError(
            f"--output {output_folder} holds {file}, which would be lost; name another"
        )
    _check_rule(dirichlet, clients, label)
    key = by_key or label
    documents = read_lines(file, key=key) if file else read_package(package or "", key=key)
    if dirichlet is None:
        parts = by_label(documents)
    else:
        parts = by_dirichlet(documents, alpha=dirichlet, num_clients=clients or 0, seed=seed)
    job = {"clients": [_client(name, output_folder) for name in parts]}
    files = files_of(parts) | {CLIENTS_FILE: yaml.safe_dump(job, sort_keys=False)}
    write_folder(output_folder, files, force=force)
    console = output()
    console.print(_table(parts))
    console.print(f"clients of a job: {output_folder / CLIENTS_FILE}", soft_wrap=True)


def _check_rule(alpha: float | None, num_clients: int | None, label: str | None) -> None:
    if alpha is None:
        if num_clients is not None or label is not None:
            raise SplitError("--clients and --label go with --dirichlet; leave them out")
        return
    if not 0 < alpha < float("inf"):
        raise SplitError(f"--dirichlet {alpha:g} is no concentration; give a number above 0")
    if num_clients is None or num_clients < 1:
        given = "is missing" if num_clients is None else f"{num_clients} is too few"
        raise SplitError(f"--clients {given}; give how many, at least 1")


def _client(name: str, folder: Path) -> dict[str, object]:
    return {"name": name, "data": {"kind": "jsonl", "path": str(folder / f"{name}.jsonl")}}


def _table(parts: Mapping[str, Sequence[Document]]) -> Table:
    """Return the sizes of the clients, and how much of each is of its most common label."""
    table = Table()
    table.add_column("client")
    for heading in ("documents", "characters", "labels"):
        table.add_column(heading, justify="right")
    table.add_column("most of")
    for name, documents in parts.items():
        label, share = most_common_label(documents)
        table.add_row(
            name,
            f"{len(documents):,}",
            f"{sum(document.num_characters for document in documents):,}",
            f"{len({document.label for document in documents}):,}",
            f"{label} {share:.0%}" if label else "",
        )
    return table
