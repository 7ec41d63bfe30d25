"""`GET /metrics` of all workers, whichever of them is asked.

The kernel gives a scrape to any worker. It asks the others over sockets in a private folder and
shows every sample with the label `worker`; with one worker there is no such label. A worker that
does not answer within a second has no samples, and `motley_router_workers_seen` says how many did.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from router.workers.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ASK_SECONDS = 1.0
_MOST_BYTES = 2**26

logger = logging.getLogger(__name__)


class MetricsPage:
    """Shows one registry, with those of the other workers where there are any."""

    def __init__(self, registry: CollectorRegistry, worker: Worker) -> None:
        self._registry = registry
        self._worker = worker

    async def answer(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        if self._worker.folder is None:
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE)
        others = [n for n in range(self._worker.num_workers) if n != self._worker.number]
        told = await asyncio.gather(*[self._ask(number) for number in others])
        pages = {self._worker.number: generate_latest(self._registry).decode()}
        pages |= {number: page for number, page in zip(others, told, strict=True) if page}
        merged = CollectorRegistry()
        merged.register(_Fixed(merge_pages(pages)))
        return Response(generate_latest(merged), media_type=CONTENT_TYPE)

    async def tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send this worker's own samples to another one."""
        try:
            writer.write(generate_latest(self._registry))
            await writer.drain()
        except OSError as error:
            logger.debug("metrics not told error=%s", error)
        finally:
            writer.close()

    async def _ask(self, number: int) -> str:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                path = self._worker.socket_path(number)
                reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
                try:
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            logger.warning(
                "worker did not tell its metrics worker=%d error=%s", number, type(error).__name__
            )
            return ""


@asynccontextmanager
async def open_metrics_page(
    registry: CollectorRegistry, worker: Worker
) -> AsyncGenerator[MetricsPage]:
    """Yield the page; where there are other workers, they are answered until the end."""
    page = MetricsPage(registry, worker)
    async with AsyncExitStack() as closing:
        if worker.folder is not None:
            path = worker.socket_path(worker.number)
            path.unlink(missing_ok=True)  # of the worker before this one
            server = await asyncio.start_unix_server(page.tell, path)
            closing.callback(server.close)
        yield page


def merge_pages(pages: Mapping[int, str]) -> list[Metric]:
    """Return the metrics of several workers as one list, each sample with its worker."""
    merged: dict[str, Metric] = {}
    for number, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page):
            known = merged.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, "worker": str(number)}
                known.add_sample(sample.name, labels, sample.value)
    seen = GaugeMetricFamily(
        "motley_router_workers_seen", "Workers whose samples are here", value=len(pages)
    )
    return [*merged.values(), seen]


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """Yield what was given."""
        return self._metrics
