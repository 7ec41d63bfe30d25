"""The engine's counters under vLLM's metric names, so that its dashboards and routers work here.

What vLLM has no name for starts with `motley:`.
"""

from collections.abc import Iterator, Mapping
from time import time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine.engine import Engine


class EngineCollector(Collector):
    """Reads the engine's totals at each scrape; nothing is counted twice."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        """Report `engine` under the label `model_name`."""
        self._engine = engine
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """Yield one sample for each metric."""
        counters = self._engine.counters
        yield self._gauge("num_requests_running", "Requests with memory", self._engine.num_running)
        yield self._gauge("num_requests_waiting", "Requests in the queue", self._engine.num_waiting)
        pages = self._engine.kv_pages
        usage = pages.num_in_use / pages.num_pages
        yield self._gauge("kv_cache_usage_perc", "KV pages in use, 1 is all", usage)
        yield self._counter(
            "prefix_cache_queries", "Tokens looked up among shared pages", pages.query_tokens
        )
        yield self._counter("prefix_cache_hits", "Tokens found there", pages.hit_tokens)
        yield self._counter(
            "num_preemptions",
            "Requests that lost their memory to an older one",
            self._engine.num_preemptions,
        )
        yield self._counter("prompt_tokens", "Prompt tokens taken", counters.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated", counters.generation_tokens)
        yield self._counter("spec_decode_num_drafts", "Drafting rounds", counters.drafts)
        yield self._counter("spec_decode_num_draft_tokens", "Tokens drafted", counters.draft_tokens)
        yield self._counter(
            "spec_decode_num_accepted_tokens", "Drafted tokens accepted", counters.accepted_tokens
        )
        positions = CounterMetricFamily(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens accepted, by depth in the draft from 0 on",
            labels=["model_name", "position"],
        )
        for position, count in enumerate(counters.accepted_per_position):
            positions.add_metric([self._model_name, str(position)], count)
        yield positions
        yield self._counter(
            "draft_seconds", "Time spent on drafting", counters.draft_seconds, prefix="motley"
        )
        yield self._counter(
            "failed_requests",
            "Requests ended because no token could be chosen",
            counters.failed_requests,
            prefix="motley",
        )
        yield self._counter(
            "drafts_without_room",
            "Drafts not made because the draft's memory was full",
            self._engine.num_drafts_without_room,
            prefix="motley",
        )
        yield self._gauge(
            "adapters_loaded", "LoRA adapters", len(self._engine.adapter_names), prefix="motley"
        )
        yield self._adapter_requests()
        yield from self._planning()
        yield from self._pre_drafting()
        guarantee = GaugeMetricFamily(
            "motley:guarantee_info",
            "How exactly greedy output is the target's own, as the start-up test found",
            labels=["model_name", "guarantee"],
        )
        guarantee.add_metric([self._model_name, self._engine.guarantee], 1)
        yield guarantee

    def _adapter_requests(self) -> Metric:
        """Return who is served under which adapter, as vLLM tells llm-d's scheduler.

        The names are labels and the value is the time. Of adapters there are as many at once as are
        loaded.
        """
        running, waiting = self._engine.adapters_in_use
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters of running and waiting requests; the value is the time in seconds",
            labels=["model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        most = str(len(self._engine.adapter_names))
        family.add_metric([self._model_name, most, ",".join(running), ",".join(waiting)], time())
        return family

    def _planning(self) -> Iterator[Metric]:
        """Yield how much is drafted, and how often that changed."""
        size = self._engine.draft_size
        yield self._gauge(
            "speculation_rows",
            "Rows of a sequence that the last step verified at most, 1 is no speculation",
            size.num_drafts + 1,
            prefix="motley",
        )
        yield self._gauge(
            "speculation_depth",
            "Drafted tokens one behind the other in the last step at most",
            size.depth,
            prefix="motley",
        )
        yield self._counter(
            "speculation_plans",
            "Times it was planned anew how much to draft",
            self._engine.drafting.num_plans,
            prefix="motley",
        )
        yield self._counter(
            "speculation_changes",
            "Plans that differ from the last one for the same load",
            self._engine.drafting.num_changes,
            prefix="motley",
        )

    def _pre_drafting(self) -> Iterator[Metric]:
        """Yield what was drafted while the target verified, where anything is."""
        counts = self._engine.pre_drafts
        if counts is None:
            return
        for name, text, value in (
            ("texts", "Guessed texts behind which was drafted ahead", counts.texts),
            ("tokens", "Tokens drafted ahead", counts.tokens),
            ("wasted_tokens", "Tokens drafted ahead that nobody verified", counts.wasted_tokens),
            ("asked", "Drafts that might have been ready", counts.asked),
            ("used", "Drafts that were ready, whole or in part", counts.used),
            ("late", "Rounds whose verification ended before drafting ahead", counts.late),
            ("without_room", "Guessed texts for which memory lacked", counts.without_room),
            ("failures", "Errors of drafting ahead; the first ends it", counts.failures),
            ("waited_seconds", "Time the engine waited for it", counts.waited_seconds),
        ):
            yield self._counter(f"pre_draft_{name}", text, value, prefix="motley")

    def _gauge(self, name: str, text: str, value: float, prefix: str = "vllm") -> Metric:
        family = GaugeMetricFamily(f"{prefix}:{name}", text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, text: str, value: float, prefix: str = "vllm") -> Metric:
        family = CounterMetricFamily(f"{prefix}:{name}", text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family


class _Fixed(Collector):
    """Families that are known already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def process_exposition(model_name: str, *, num_restarts: int, is_up: bool) -> bytes:
    """Return what is known of the engine's process while none may run, in Prometheus's format."""
    restarts = CounterMetricFamily(
        "motley:engine_restarts",
        "Times the engine's process was started again after it had ended by itself",
        labels=["model_name"],
    )
    restarts.add_metric([model_name], num_restarts)
    up = GaugeMetricFamily("motley:engine_up", "Whether an engine is loaded", labels=["model_name"])
    up.add_metric([model_name], is_up)
    return _text([restarts, up])


def error_exposition(model_name: str, errors: Mapping[int, int]) -> bytes:
    """Return how many requests ended in an error, by HTTP status, in Prometheus's format."""
    family = CounterMetricFamily(
        "motley:request_errors",
        "Requests that ended in an error, mid-stream ones included",
        labels=["model_name", "status"],
    )
    for status, count in sorted(errors.items()):
        family.add_metric([model_name, str(status)], count)
    return _text([family])


def _text(families: list[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Fixed(families))
    return generate_latest(registry)


def exposition(engine: Engine, model_name: str) -> bytes:
    """Return all metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, model_name))
    return generate_latest(registry)
