"""`motley serve`: an OpenAI endpoint over one model."""

from typing import Annotated, Any

import typer

from planner.console import configure_logging, run_app
from serving import endpoint_options
from serving.config import ServeConfig
from serving.words import (
    adapter_of,
    default_name,
    kv_bytes_of,
    refuse_idle_drafting,
    validated,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EngineOption = Annotated[
    str,
    typer.Option(
        help="What runs the model: motley (these options); vllm, launched and watched in its own "
        "environment; or emulated: the planner's timing for a named device, no model. `motley serve "
        "--engine vllm --help` has that engine's options."
    ),
]
_DraftOption = Annotated[
    str | None,
    typer.Option(
        help="What guesses ahead: a small model with the same tokenizer, or the folder of a draft "
        "head made for MODEL."
    ),
]
_DrafterOption = Annotated[
    str | None,
    typer.Option(
        help="model (default with --draft), ngram (copies what followed the same words in the text "
        "before; needs no draft) or none."
    ),
]
_DraftTokensOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Guesses a round, one behind the other; auto plans them for the present load, from "
        "none to 8, with costs measured at start.",
    ),
]
_DraftTreeOption = Annotated[
    str | None,
    typer.Option(
        metavar="BEAMxNODES",
        help="Trees instead of chains: how many continuations to follow at each of --draft-tokens "
        "depths, and how many guesses to verify; for example 4x16.",
    ),
]
_PreDraftOption = Annotated[
    str,
    typer.Option(
        metavar="auto|on|off",
        help="Chains of the likeliest outcomes are drafted while the target verifies; auto: where "
        "draft and target share no cores.",
    ),
]
_QuantizationOption = Annotated[
    str,
    typer.Option(
        help="Weights of the target on a CPU: float32, bfloat16, int8 or int4, the latter two with "
        "less memory and some error; auto: as --dtype says."
    ),
]
_ServedNameOption = Annotated[
    str | None, typer.Option(help="Name clients ask for; default: the folder's name or the id.")
]
_GpuLayersOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="First layers of a CPU target that run on a GPU; auto: as many as fit.",
    ),
]
_GpuDtypeOption = Annotated[
    str, typer.Option(help="Their weights: auto (the target's), float32, bfloat16 or float16.")
]
_ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of one forward; default: one a core.")
]
_NoDraftOption = Annotated[
    bool, typer.Option("--no-draft", help="Ignore --draft; as --drafter none.")
]


def run(arguments: list[str]) -> None:
    """Run `motley serve`; a reserved first word names another command of this package."""
    if arguments and arguments[0] == "train-tiny":
        from serving.tiny.cli import run as train_tiny

        train_tiny(arguments[1:])
        return
    if arguments and arguments[0] == "train-draft":
        from serving.draft_training.cli import run as train_draft

        train_draft(arguments[1:])
        return
    engine, others = take_engine(arguments)
    if engine == "emulated":
        from serving.emulated.cli import app as chosen
    elif engine == "vllm":
        from serving.vllm_engine.cli import app as chosen
    elif engine in (None, "motley"):
        run_app(app, others, name="motley serve")
        return
    else:
        raise typer.BadParameter(f"--engine {engine!r} is none; write motley, vllm or emulated")
    run_app(chosen, others, name=f"motley serve --engine {engine}")


def take_engine(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the engine that the words name, if any, and the other words: each has its own options."""
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--engine" and equals:
            return value, arguments[:place] + arguments[place + 1 :]
        if flag == "--engine" and place + 1 < len(arguments):
            return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
    return None, arguments


@app.command(
    epilog="`motley serve train-draft --help` is about training a draft head for a model, `motley "
    "serve train-tiny --help` about making the small models that ship with Motley."
)
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Local folder or hub id of the model to serve.")],
    engine: _EngineOption = "motley",
    draft: _DraftOption = None,
    target_device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    draft_device: Annotated[
        str, typer.Option(help="Where the draft runs; auto measures which device is best.")
    ] = "cpu",
    drafter: _DrafterOption = None,
    draft_tokens: _DraftTokensOption = "auto",
    draft_tree: _DraftTreeOption = None,
    pre_draft: _PreDraftOption = "auto",
    no_draft: _NoDraftOption = False,
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU), float32, bfloat16 or float16.")
    ] = "auto",
    target_quantization: _QuantizationOption = "auto",
    target_gpu_layers: _GpuLayersOption = "0",
    target_gpu_device: Annotated[str, typer.Option(help="Where they run.")] = "cuda",
    target_gpu_dtype: _GpuDtypeOption = "auto",
    served_model_name: _ServedNameOption = None,
    adapter: endpoint_options.Adapters = None,
    host: endpoint_options.Host = "127.0.0.1",
    port: endpoint_options.Port = 8000,
    threads: _ThreadsOption = None,
    kv_memory: Annotated[str, typer.Option(help="Memory for keys and values.")] = "1GiB",
    max_sequences: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 16,
    max_waiting: endpoint_options.MostWaiting = 256,
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
    verbose: Annotated[bool, typer.Option(help="Log every step.")] = False,
) -> None:
    """Serve MODEL, a local folder or a hub id, over OpenAI's API.

    With --draft or --drafter ngram tokens are guessed ahead and verified together: the same text, sooner.
    """
    configure_logging(verbose=verbose)
    refuse_idle_drafting(context, "draft_tokens", "draft_tree", "pre_draft", "draft_device")
    config = _config(context.params)
    endpoint = endpoint_options.endpoint_config(context.params)
    adapters = dict(adapter_of(word) for word in adapter or [])
    from serving.start import serve as serve_forever

    serve_forever(config, adapters, endpoint, is_verbose=verbose)


def _config(options: dict[str, Any]) -> ServeConfig:
    given = {name: options[name] for name in ServeConfig.model_fields if name in options}
    given["drafter"] = "none" if options["no_draft"] else options["drafter"]
    given["draft_tokens"] = _draft_tokens(options["draft_tokens"])
    given["draft_tree"] = _tree_shape(options["draft_tree"])
    given["target_gpu_layers"] = _layer_count(options["target_gpu_layers"])
    given["served_model_name"] = options["served_model_name"] or default_name(options["model"])
    given["kv_bytes"] = kv_bytes_of(options["kv_memory"])
    return validated(ServeConfig, given)


def _draft_tokens(word: str) -> int | str:
    if word != "auto" and not (word.isdecimal() and 1 <= int(word) <= 64):
        raise typer.BadParameter(
            f"--draft-tokens {word!r} is no number of guesses; write 1 to 64, or auto to plan it"
        )
    return word if word == "auto" else int(word)


def _tree_shape(word: str | None) -> dict[str, int] | None:
    if word is None:
        return None
    beam, _, nodes = word.partition("x")
    if not (beam.isdecimal() and nodes.isdecimal()):
        raise typer.BadParameter(f"--draft-tree {word!r} is not BEAMxNODES; write for example 4x16")
    return {"beam_width": int(beam), "num_nodes": int(nodes)}


def _layer_count(word: str) -> int | str:
    if word != "auto" and not word.isdecimal():
        raise typer.BadParameter(
            f"--target-gpu-layers {word!r} is no number of layers; write a number or auto"
        )
    return word if word == "auto" else int(word)
