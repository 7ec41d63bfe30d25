"""`motley finetune publish`: an adapter to one endpoint or many. Parses first, imports httpx afterwards."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from finetune.errors import EndpointError, FinetuneError
from planner.console import byte_progress_bar, configure_logging, output
from planner.key_file import is_key, read_key

KEY_VARIABLE = "MOTLEY_API_KEY"
"""Environment variable with the key that is sent."""


def publish_command(
    adapter_folder: Annotated[
        Path, typer.Argument(metavar="ADAPTER_FOLDER", help="The `adapter` folder of a run.")
    ],
    name: Annotated[str, typer.Option(help="Model name the adapter shall answer under.")],
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL]...", help="Serving endpoints, http://HOST:PORT."),
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Another one; repeatable. The same as a URL.")
    ] = None,
    upload: Annotated[
        bool | None,
        typer.Option(
            "--upload/--by-path",
            help="Send the files, in place of an adapter of that name; or have the endpoint read the "
            "folder. Default: sent to other machines. A router here may have replicas elsewhere: "
            "give --upload.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model it is for, where a router serves several.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is an admin key; or set MOTLEY_API_KEY."),
    ] = None,
) -> None:
    """Load a finished run's ADAPTER_FOLDER into running endpoints, or behind a router into all.

    One that fails does not keep the others from it; each outcome is a line.
    """
    from finetune.publish import address_of, publish

    configure_logging()
    addresses = _distinct([address_of(url) for url in [*(urls or []), *(endpoint or [])]])
    key = _key(api_key_file)

    def publish_to(address: str) -> None:
        with byte_progress_bar() as progress:
            publish(
                adapter_folder,
                endpoint=address,
                name=name,
                is_sent=upload,
                model=model,
                key=key,
                watch=_ByteBar(progress).watch,
            )
        output().print(
            f"{address} answers under the model name {name!r}", soft_wrap=True, markup=False
        )

    if len(addresses) == 1:
        publish_to(addresses[0])
    else:
        _try_all(addresses, publish_to)


def _try_all(addresses: list[str], publish_to: Callable[[str], None]) -> None:
    """Publish to each, whatever becomes of the others.

    Raises:
        EndpointError: In the end, if any did not take the adapter.
    """
    num_failed = 0
    for address in addresses:
        try:
            publish_to(address)
        except EndpointError as error:
            num_failed += 1
            output().print(f"{address} failed: {error}", soft_wrap=True, markup=False)
    if num_failed:
        raise EndpointError(
            f"{num_failed} of {len(addresses)} endpoints did not take the adapter, the others have "
            "it; mend these and publish to them again"
        )


def _distinct(addresses: list[str]) -> list[str]:
    """Return the addresses, of which there must be one, and none twice.

    Raises:
        FinetuneError: If that is not so.
    """
    if not addresses:
        raise FinetuneError("no endpoint is named; give one or more as http://HOST:PORT")
    for address in addresses:
        if addresses.count(address) > 1:
            raise FinetuneError(f"endpoint {address!r} stands twice; give it once")
    return addresses


def _key(file: Path | None) -> str | None:
    """Return the key of the file, or else of the environment: never of the command's words."""
    if file is not None:
        return read_key(file)
    word = os.environ.get(KEY_VARIABLE, "").strip()
    if word and not is_key(word):
        raise FinetuneError(f"{KEY_VARIABLE} holds white space or non-ASCII; change it")
    return word or None


class _ByteBar:
    """Shows an upload: bytes while they go, then that the endpoint is waited for."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def watch(self, sent: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("sending", total=total)
        text = "sending" if sent < total else "sent, loading"
        self._progress.update(self._task, completed=sent, description=text)
