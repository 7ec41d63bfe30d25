"""Virtual models for clients with keys."""

from pathlib import Path

from keys_files import bearer, write_governance
from minions_models import ScriptedModel, direct, planted_document, read_part
from minions_router import NAME, body
from router_under_test import OpenRouter, ReadLines

ALICE = "alices-secret-key"
BOB = "bobs-secret-key"


async def test_a_key_needs_both_models_and_pays_for_both(
    tmp_path: Path, open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """Without one of the two it is 403; with both every leg is the client's, and none has its key."""
    keys = {
        ALICE: {"name": "alice", "models": [NAME, "reader", "director"]},
        BOB: {"name": "bob", "models": [NAME, "reader"]},
    }
    governance = write_governance(tmp_path, keys)
    content = body(planted_document(tokens=2000, num_facts=2)[0])
    async with (
        ScriptedModel("reader", read_part) as reader,
        ScriptedModel("director", direct) as director,
        open_router(reader, director, governance=governance) as client,
    ):
        path = "/v1/chat/completions"
        refused = await client.post(path, json=content, headers=bearer(BOB))
        assert not reader.requests + director.requests
        answer = await client.post(path, json=content, headers=bearer(ALICE))
        metrics = (await client.get("/metrics")).text
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model")
    assert "director" in refused.json()["error"]["message"]
    assert answer.status_code == 200
    assert not any("authorization" in each for each in reader.headers + director.headers)
    legs = [line for line in read_lines() if line["model"] != NAME]
    assert {line["tenant"] for line in legs} == {"alice"}
    tokens = answer.json()["usage"]["prompt_tokens"]
    assert any(
        line.startswith("motley_router_tokens_total") and line.endswith(f" {float(tokens)}")
        for line in metrics.splitlines()
    ), metrics
