"""The shipped model's embeddings, from `motley serve` through `route train` to the router's picks."""

import asyncio
import json
from pathlib import Path

import httpx
from embedded_prompts import disguised_prompts
from fakes import FakeReplica
from route_process import motley_route, running

CHAT = "/v1/chat/completions"


async def test_a_served_model_embeds_for_training_and_for_requests(
    replica_url: str, tmp_path: Path
) -> None:
    """Prompts of words never seen go where their graded likes went."""
    data, predictor, config = (tmp_path / name for name in ("data.json", "p.npz", "router.yaml"))
    data.write_text(json.dumps(disguised_prompts(120)))
    words = ["--data", data, "--output", predictor, "--embeddings-url", replica_url]
    process = await asyncio.create_subprocess_exec(
        *motley_route("train", *words, "--embeddings-model", "tiny"),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    assert b"120 of 120 prompts have one of 192 numbers" in told
    assert b"embedding_weight" in told
    async with FakeReplica(model="coder") as coder, FakeReplica(model="poet") as poet:
        content = {
            "port": 0,
            "models": [{"name": r.model, "replicas": [{"url": r.url}]} for r in (coder, poet)],
            "model_choice": {
                "predictor": str(predictor),
                "embeddings": {"url": replica_url, "timeout_seconds": 30},
            },
            "traffic_log": str(tmp_path / "traffic.jsonl"),
        }
        config.write_text(json.dumps(content))
        async with running(config) as (_, url), httpx.AsyncClient(base_url=url) as client:
            hits = 0
            for record in disguised_prompts(10, seed=3):
                scores: dict[str, float] = record["scores"]  # type: ignore[assignment]
                text = {"role": "user", "content": record["question"]}
                body = {"model": "auto", "messages": [text]}
                answer = await client.post(CHAT, json=body, timeout=60)
                hits += scores[answer.headers["x-motley-model"]] == 1
            metrics = (await client.get("/metrics")).text
    assert hits >= 9
    assert "motley_router_embedding_failures_total{" not in metrics
