"""`motley route FILE`: one OpenAI endpoint over the models and replicas of a YAML file."""

from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging, run_app

app = typer.Typer(add_completion=False)


@app.command(
    epilog="`motley route train --help`, `evaluate` and `explain` are about the predictor that picks "
    "a model for each prompt, `motley route key --help` about clients' keys; `./train` names a file."
)
def route(
    file: Annotated[
        Path, typer.Argument(help="YAML with models and replicas; see configs/router/.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on, over the file's.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, over the file's; 0: a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=32, help="Processes, over the file's.")
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Log every pick.")] = False,
) -> None:
    """Serve one OpenAI endpoint over many models and replicas."""
    from router.config_file import ConfigFile

    overrides = {"host": host, "port": port, "workers": workers}
    given = {name: value for name, value in overrides.items() if value is not None}
    config_file = ConfigFile(file, given)
    config = config_file.read()
    configure_logging(verbose=verbose)
    from router.server import serve

    serve(config, config_file)


def run(arguments: list[str]) -> None:
    """Run `motley route`; a reserved first word names another command of this package."""
    if arguments[:1] == ["key"]:
        from router.governance.key_cli import run as make_key

        make_key(arguments[1:])
        return
    from router.prediction.cli import COMMANDS

    if arguments and arguments[0] in COMMANDS:
        from router.prediction.cli import run as run_prediction

        run_prediction(arguments)
        return
    run_app(app, arguments, name="motley route")
