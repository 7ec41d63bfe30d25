"""`motley route key NAME`: a new key, shown once, its digest added to a file of keys."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from planner.console import run_app

app = typer.Typer(add_completion=False)

_KEY_BYTES = 32


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in logs and metrics.")],
    keys_file: Annotated[
        Path, typer.Option(help="YAML file of keys; made where there is none.")
    ] = Path("keys.yaml"),
) -> None:
    """Make a client's key: print it once, and keep its SHA-256 in the file of keys.

    Models, rates and budgets are added to the entry by hand; a running router reads the file again
    at SIGHUP.
    """
    from planner.documents import read_document, write_atomically
    from planner.errors import DocumentError
    from router.governance_config import KeyConfig, KeysFile

    made = "mk-" + secrets.token_urlsafe(_KEY_BYTES)
    try:
        entry = KeyConfig(name=name, sha256=hashlib.sha256(made.encode()).hexdigest())
    except ValueError:
        message = f"NAME is {name!r:.80}; use up to 64 letters, digits and ._@-"
        raise typer.BadParameter(message) from None
    is_new = not keys_file.exists()
    if not is_new:
        if keys_file.suffix == ".json":
            raise DocumentError(keys_file, "is JSON; add to it by hand, or name a YAML file")
        known = [each.name for each in read_document(keys_file, KeysFile).keys]
        if name in known:
            raise DocumentError(keys_file, f"has a key named {name!r}; choose another name")
    lines = f"  - name: {entry.name}\n    sha256: {entry.sha256}\n"
    before = "schema_version: 1\nkeys:\n" if is_new else _ready_for_more(keys_file)
    write_atomically(keys_file, before + lines)
    if not is_new:
        read_document(keys_file, KeysFile)
    typer.echo(made)
    typer.echo(f"{name} added to {keys_file}; the key is not kept, note it now", err=True)


def _ready_for_more(path: Path) -> str:
    """Return the file's text, comments and all, such that an entry can follow."""
    from planner.errors import DocumentError

    text = path.read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    is_list_last = [line for line in lines if not line.startswith((" ", "-"))][-1:] == ["keys:"]
    if not is_list_last or any(line.startswith("-") for line in lines):
        problem = "must end in its list `keys:`, each entry indented by two; add the entry by hand"
        raise DocumentError(path, problem)
    return text if text.endswith(os.linesep) else text + os.linesep


def run(arguments: list[str]) -> None:
    """Run `motley route key` with the words after it."""
    run_app(app, arguments, name="motley route key")
