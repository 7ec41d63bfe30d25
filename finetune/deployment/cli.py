"""`motley finetune certs`, `server`, `client` and `render`. Parses first, imports Flower afterwards."""

import datetime
import logging
import signal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from finetune.config import Name
from finetune.errors import DeploymentError, FlowerError
from finetune.job_file import read_job
from finetune.run_plots import RunPlots
from planner.console import configure_logging, output

_JobFile = Annotated[
    Path, typer.Argument(metavar="JOB.yaml", help="The job, with a `deployment` block.")
]
_Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS and keys; on loopback only.")
]
_Verbose = Annotated[bool, typer.Option("--verbose", help="Log what Flower's process says too.")]


class RenderTarget(StrEnum):
    """What the files of a deployment are rendered for."""

    KUBERNETES = "kubernetes"
    SYSTEMD = "systemd"


def certs_command(
    output_folder: Annotated[
        Path, typer.Option("--output", help="New folder for certificates and keys.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address by which clients reach the server; repeatable. "
            "Loopback is always added."
        ),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(help="Client that gets a key pair, as the job names it; repeatable."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Validity of both certificates.")
    ] = 365,
) -> None:
    """Make a CA, the server's certificate and the clients' keys, in a new folder.

    A client needs ca.crt and its own clients/NAME.key; the server needs no client's .key. A client
    may rather make its key itself (ssh-keygen -t ecdsa -b 384) and send clients/NAME.pub.
    """
    from finetune.deployment.certificates import LOOPBACK_HOSTS, write_certificates

    for name in client or []:
        _check_name(name)
    until = write_certificates(
        output_folder,
        hosts=host or [],
        clients=client or [],
        days=days,
        now=datetime.datetime.now(datetime.UTC),
    )
    hosts = ", ".join(dict.fromkeys([*LOOPBACK_HOSTS, *(host or [])]))
    console = output()
    console.print(f"CA: {output_folder / 'ca.crt'}, until {until:%Y-%m-%d}", soft_wrap=True)
    console.print(
        f"server: {output_folder / 'server.crt'}, until {until:%Y-%m-%d}, for {hosts}",
        soft_wrap=True,
    )
    for name in client or []:
        console.print(f"client {name}: {output_folder / 'clients' / name}.key", soft_wrap=True)


def server_command(
    job_file: _JobFile,
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Run folder, in place of the job's `output`.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Train the other rounds of a run that was stopped.")
    ] = False,
    insecure: _Insecure = False,
    verbose: _Verbose = False,
) -> None:
    """Serve the job in JOB.yaml to its clients; run it again to go on after an interruption."""
    job = read_job(job_file)
    folder = output_folder or job.output
    configure_logging(verbose=verbose)
    _quiet_flower(verbose)
    _end_in_order_on_sigterm()
    try:
        from finetune.deployment.server import run_server
    except ImportError as error:
        raise _other_flower(error) from None
    from finetune.report import print_result

    _quiet_flower(verbose)
    manifest = run_server(job, folder=folder, insecure=insecure, goes_on=go_on)
    RunPlots(folder).draw(manifest)
    print_result(manifest, output(), adapter=folder / "adapter")


def client_command(
    job_file: _JobFile,
    name: Annotated[str, typer.Option(help="Which of the job's clients this is.")],
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what this client keeps between rounds of a sparse job; default: "
            "motley/finetune/JOB in the user's state folder, ~/.local/state."
        ),
    ] = None,
    insecure: _Insecure = False,
    verbose: _Verbose = False,
) -> None:
    """Take part in the job in JOB.yaml until it is done; only this client's text is read."""
    job = read_job(job_file)
    configure_logging(verbose=verbose)
    _quiet_flower(verbose)
    _end_in_order_on_sigterm()
    try:
        from finetune.deployment.client import run_client
    except ImportError as error:
        raise _other_flower(error) from None
    _quiet_flower(verbose)
    run_client(job, name=name, insecure=insecure, state=state)


def render_command(
    job_file: _JobFile,
    target: Annotated[RenderTarget, typer.Option(help="What to render for.")],
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="New folder; default: rendered/TARGET.")
    ] = None,
    image: Annotated[
        str, typer.Option(help="Container image of Motley; the rendered Dockerfile builds it.")
    ] = "motley-finetune:0.1.0",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder and whatever it holds.")
    ] = False,
) -> None:
    """Write the files that run the server and the clients of the job in JOB.yaml."""
    from finetune.deployment.render.kubernetes import render_kubernetes
    from finetune.deployment.render.systemd import render_systemd
    from planner.render.folder import check_folder, write_folder

    folder = output_folder or Path("rendered", target.value)
    check_folder(folder, force=force)
    job = read_job(job_file)
    files = (
        render_systemd(job)
        if target is RenderTarget.SYSTEMD
        else render_kubernetes(job, image=image)
    )
    write_folder(folder, files, force=force)
    output().print(
        f"{len(files)} files for {target.value} in {folder}; start with {folder / 'README.md'}",
        soft_wrap=True,
    )


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `motley finetune`."""
    app.command("certs")(certs_command)
    app.command("server")(server_command)
    app.command("client")(client_command)
    app.command("render")(render_command)


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise DeploymentError(
            f"--client {name!r} is no client's name; use letters, digits, dot, dash, underscore"
        ) from None


def _quiet_flower(verbose: bool) -> None:
    """Keep Flower's chatter out of our log; before its import, and after it, since it sets levels."""
    for name in ("flwr", "alembic"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


def _end_in_order_on_sigterm() -> None:
    """Let SIGTERM, as Ctrl-C does, end what this process started before it ends itself."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _other_flower(error: ImportError) -> Exception:
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("flwr."):
        return error  # a package that is not installed
    return FlowerError(
        f"the installed flwr is another than expected ({error}); install flwr==1.41.*"
    )
