"""`motley serve MODEL --engine emulated`: options of an emulated replica."""

from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging
from planner.hardware.coefficients import DEFAULT_COEFFICIENTS
from serving import endpoint_options
from serving.emulated.config import EmulatedConfig
from serving.words import validated

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_HardwareOption = Annotated[
    str,
    typer.Option(
        metavar="GPU",
        help="Device of planner/catalogues/gpus.yaml, or how its name begins; of several the best.",
    ),
]
_CoefficientsOption = Annotated[
    str, typer.Option(help="Set of planner/catalogues/coefficients.yaml that holds times back.")
]
_CatalogueOption = Annotated[
    list[Path] | None,
    typer.Option("--catalogue", metavar="FILE", help="Devices and models of your own; repeatable."),
]
_TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Tokenizer that counts prompts; default: MODEL's where it is a folder, else that of the "
        "shipped tiny model.",
    ),
]


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(help="Folder, hub id, or how a listed one begins, as llama-3.1-8b.")
    ],
    hardware: _HardwareOption,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Devices a layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help="Groups of layers.")] = 1,
    weight_dtype: Annotated[str, typer.Option(help="How weights are stored.")] = "bfloat16",
    kv_dtype: Annotated[str, typer.Option(help="How keys and values are.")] = "bfloat16",
    memory_fraction: Annotated[float, typer.Option(help="Share of the memory to use.")] = 0.9,
    max_sequences: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 256,
    max_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one step.")] = 2048,
    max_waiting: endpoint_options.MostWaiting = 256,
    coefficients: _CoefficientsOption = DEFAULT_COEFFICIENTS,
    catalogue: _CatalogueOption = None,
    tokenizer: _TokenizerOption = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name clients ask for; default: MODEL as written.")
    ] = None,
    host: endpoint_options.Host = "127.0.0.1",
    port: endpoint_options.Port = 8000,
    api_key_file: endpoint_options.KeyFile = None,
    admin_key_file: endpoint_options.AdminKeyFile = None,
    tls_cert: endpoint_options.TlsCert = None,
    tls_key: endpoint_options.TlsKey = None,
    adapter_root: endpoint_options.AdapterRoot = None,
    adapter_upload_dir: endpoint_options.AdapterUploadDir = None,
    max_upload: endpoint_options.MaxUpload = "2GiB",
    max_adapter_rank: endpoint_options.MaxAdapterRank = 256,
    request_timeout: endpoint_options.RequestTimeout = 3600.0,
    drain_timeout: endpoint_options.DrainTimeout = 25.0,
    verbose: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Answer as MODEL on the named hardware would in time, with made-up text and no devices."""
    options = dict(locals())  # named as the configuration's fields
    configure_logging(verbose=verbose)
    given = {name: options[name] for name in EmulatedConfig.model_fields if name in options}
    given["catalogues"] = tuple(catalogue or ())
    given["served_model_name"] = served_model_name or model
    config = validated(EmulatedConfig, given)
    endpoint = endpoint_options.endpoint_config(options)
    from serving.emulated.server import serve as serve_forever

    serve_forever(config, endpoint)
