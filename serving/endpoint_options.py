"""Options of every `motley serve`, whichever engine answers: address, keys, TLS, adapters, limits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from serving.endpoint_config import EndpointConfig
from serving.words import size_of, validated

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Adapters = Annotated[
    list[str] | None, typer.Option(help="LoRA folder to load at start, as NAME=FOLDER.")
]
MostWaiting = Annotated[int, typer.Option(min=0, help="Requests that wait; one more gets 429.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="API keys, one a line; MOTLEY_API_KEYS (comma-separated) adds to them."),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="Keys that may load adapters too; MOTLEY_ADMIN_KEYS adds to them. Where any key is "
        "set, loading adapters needs one of these."
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(help="Certificate chain in PEM: HTTPS instead of HTTP.")
]
TlsKey = Annotated[Path | None, typer.Option(help="The certificate's key in PEM.")]
AdapterRoot = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder that clients may have adapters loaded from; repeatable. Default: any on "
        "loopback, none on other addresses."
    ),
]
AdapterUploadDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for adapters that clients send, emptied when the endpoint ends. Default: in "
        "~/.cache/motley; beyond loopback without keys no upload is taken."
    ),
]
MaxUpload = Annotated[str, typer.Option(help="Largest adapter that a client may send.")]
MaxAdapterRank = Annotated[
    int, typer.Option(min=1, help="Largest rank of an adapter that clients may have loaded.")
]
RequestTimeout = Annotated[
    float, typer.Option(help="Seconds a request may take, waiting included.")
]
DrainTimeout = Annotated[
    float, typer.Option(help="Seconds running requests have after the signal to stop.")
]


def endpoint_config(options: dict[str, Any]) -> EndpointConfig:
    """Return what a command's options say about the endpoint.

    Raises:
        BadParameter: If they contradict each other.
    """
    given = {
        "api_key_file": options["api_key_file"],
        "admin_key_file": options["admin_key_file"],
        "tls_cert": options["tls_cert"],
        "tls_key": options["tls_key"],
        "adapter_roots": tuple(options["adapter_root"] or ()),
        "adapter_upload_dir": options["adapter_upload_dir"],
        "max_upload_bytes": size_of("--max-upload", options["max_upload"]),
        "max_adapter_rank": options["max_adapter_rank"],
        "request_timeout_seconds": options["request_timeout"],
        "drain_seconds": options["drain_timeout"],
    }
    return validated(EndpointConfig, given)
