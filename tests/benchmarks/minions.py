"""Remote tokens of MinionS against sending the whole document, with scripted models over real HTTP.

The models follow scripts, so that what is measured is the protocol: what crosses to the remote model
for a document of a given length, and whether every planted fact comes back. How well real models
follow it is not measured here. The published figure is 5.7 (arXiv 2502.15964: MinionS at 97.9 % of
the remote model's quality on real documents).
"""

import asyncio
import time
from dataclasses import asdict, dataclass

import httpx
from fakes import served
from minions_models import (
    QUESTION,
    ScriptedModel,
    direct,
    num_tokens,
    planted_document,
    read_part,
)

from router.config import RouterConfig
from router.gateway import open_gateway
from router.traffic_log import TrafficLog

PUBLISHED_FACTOR = 5.7
CASES = ((10_000, 10), (100_000, 40), (300_000, 40), (100_000, 400))
"""Tokens of the document, facts planted in it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One document asked about."""

    document_tokens: int
    num_facts: int
    num_found: int
    remote_tokens: int
    whole_tokens: int
    """Of the remote model, were the document sent to it."""
    local_tokens: int
    num_jobs: int
    num_rounds: int
    result: str
    seconds: float

    @property
    def factor(self) -> float:
        """How many times fewer tokens the remote model has."""
        return self.whole_tokens / self.remote_tokens


def run() -> dict[str, object]:
    """Print the table and return its rows."""
    rows = [asyncio.run(_measure(tokens, num_facts)) for tokens, num_facts in CASES]
    print("document  facts  found  remote tokens  whole document  factor  local tokens  jobs  s")
    for row in rows:
        print(
            f"{row.document_tokens:8d} {row.num_facts:6d} {row.num_found:6d} {row.remote_tokens:14d} "
            f"{row.whole_tokens:15d} {row.factor:7.1f} {row.local_tokens:13d} {row.num_jobs:5d} "
            f"{row.seconds:5.1f}  {row.result}"
        )
    print(f"published on real documents: {PUBLISHED_FACTOR}")
    return {
        "rows": [asdict(row) | {"factor": row.factor} for row in rows],
        "published_factor": PUBLISHED_FACTOR,
    }


async def _measure(tokens: int, num_facts: int) -> Row:
    document, facts = planted_document(tokens=tokens, num_facts=num_facts)
    messages = [{"role": "user", "content": QUESTION}]
    content = {"model": "minions/reader+director", "messages": messages, "documents": [document]}
    async with (
        ScriptedModel("reader", read_part) as reader,
        ScriptedModel("director", direct) as director,
    ):
        models = [
            {"name": each.model, "replicas": [{"url": each.url}]} for each in (reader, director)
        ]
        config = RouterConfig.model_validate({"models": models})
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            served(application) as url,
            httpx.AsyncClient(base_url=url, timeout=600) as client,
        ):
            began = time.perf_counter()
            response = await client.post("/v1/chat/completions", json=content)
            seconds = time.perf_counter() - began
    answer = response.raise_for_status().json()
    text = answer["choices"][0]["message"]["content"]
    usage = answer["usage"]["minions"]
    return Row(
        document_tokens=num_tokens(document),
        num_facts=num_facts,
        num_found=sum(f"{name}={word}" in text for name, word in facts.items()),
        remote_tokens=director.total_tokens,
        whole_tokens=num_tokens(document + QUESTION) + num_tokens(text),
        local_tokens=reader.total_tokens,
        num_jobs=usage["jobs"],
        num_rounds=usage["rounds"],
        result=answer["minions"]["result"],
        seconds=seconds,
    )
