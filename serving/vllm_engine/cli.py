"""`motley serve MODEL --engine vllm`: options of a supervised vLLM; words it does not know are vLLM's."""

from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging
from serving import endpoint_options
from serving.vllm_engine.config import VllmConfig
from serving.words import (
    adapter_of,
    default_name,
    kv_bytes_of,
    refuse_idle_drafting,
    validated,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PythonOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An interpreter that has vllm; default: an environment made once in ~/.cache/motley.",
    ),
]
_PlanOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="plan.json whose row for MODEL gives the arguments."),
]
_DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="Weights: float32, bfloat16, float16, or fp8 while loading."),
]
_KvOption = Annotated[
    str | None, typer.Option(help="Memory for keys and values; on a CPU whole GiB.")
]
_StartOption = Annotated[
    float, typer.Option("--start-timeout", help="Longest that loading may take, in seconds.")
]


@app.command(context_settings={"ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder or hub id; with --plan, a model's name.")],
    engine_arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VLLM OPTIONS]", help="Further options, passed to vLLM as they are."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, gpu, or auto: as the machine has.")] = "auto",
    python: _PythonOption = None,
    plan: _PlanOption = None,
    offer: Annotated[str | None, typer.Option(help="Which row of the plan.")] = None,
    draft: Annotated[str | None, typer.Option(help="Model that guesses ahead.")] = None,
    drafter: Annotated[str | None, typer.Option(help="model, ngram or none.")] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Guesses a round.")] = 4,
    weight_dtype: _DtypeOption = None,
    tensor_parallel: Annotated[int | None, typer.Option(min=1, help="Devices a layer.")] = None,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Requests at once.")] = None,
    kv_memory: _KvOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores of a CPU build.")] = None,
    adapter: endpoint_options.Adapters = None,
    max_adapters: Annotated[int, typer.Option(min=0, help="Adapters in one batch.")] = 4,
    max_adapter_rank: Annotated[int, typer.Option(help="Largest rank of one.")] = 64,
    start_seconds: _StartOption = 1800,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name clients ask for; default: the folder's or the id.")
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
    request_timeout: endpoint_options.RequestTimeout = 3600.0,
    drain_timeout: endpoint_options.DrainTimeout = 25.0,
    verbose: Annotated[bool, typer.Option(help="Log what vLLM logs.")] = False,
) -> None:
    """Serve MODEL with vLLM in its own environment and process, restarted should it crash."""
    given = dict(locals())  # options are named as the configuration's fields
    configure_logging(verbose=verbose)
    refuse_idle_drafting(context, "draft_tokens")
    given["served_model_name"] = served_model_name or (model if plan else default_name(model))
    given["kv_bytes"] = None if kv_memory is None else kv_bytes_of(kv_memory)
    fields = {name: given[name] for name in VllmConfig.model_fields if name in given}
    config = validated(VllmConfig, fields)
    endpoint = endpoint_options.endpoint_config(given)
    adapters = dict(adapter_of(word) for word in adapter or [])
    if adapters and not max_adapters:
        raise typer.BadParameter("--adapter needs --max-adapters of 1 or more; drop one of them")
    from serving.vllm_engine.server import serve as serve_forever

    serve_forever(config, adapters, endpoint)
