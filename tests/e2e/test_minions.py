"""MinionS and Minion with the shipped models, from `motley serve` through `motley route`."""

import httpx
import pytest
import yaml

SMALL = {
    "max_rounds": 2,
    "max_tasks": 1,
    "max_concurrent_jobs": 4,
    "plan_answer_tokens": 300,
    "job_answer_tokens": 100,
    "final_answer_tokens": 160,
    "findings_tokens": 150,
    "chunk_tokens": 60,
    "text_characters": 40,
    "wall_seconds": 500,
}
RESULTS = {"finished", "round_limit", "plan_refused"}


@pytest.fixture
def client(replica_url, start, tmp_path):
    """Return a client of a router whose only model plays both parts."""
    models = [{"name": "tiny", "replicas": [{"url": replica_url}], "context_tokens": 1024}]
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump({"port": 0, "models": models, "minions": SMALL}))
    with httpx.Client(base_url=start("router", "route", str(file))[1], timeout=590) as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("protocol", ["minions", "minion"])
def test_the_protocols_run_to_their_end_with_the_shipped_models(client, repository, protocol):
    """Real models under a grammar: every leg is answered, and the answer is marked and counted."""
    source = (repository / "router" / "sse.py").read_text()[:600]
    content = {
        "model": f"{protocol}/tiny+tiny",
        "messages": [{"role": "user", "content": "What does the class return?"}],
        "documents": [source],
        "temperature": 0.8,
        "seed": 1,
    }
    response = client.post("/v1/chat/completions", json=content)
    assert response.status_code == 200, response.text
    answer = response.json()
    usage = answer["usage"]["minions"]
    assert answer["minions"]["result"] in RESULTS
    assert answer["choices"][0]["message"]["content"]
    assert usage["failed"] == 0
    assert usage["local"]["requests"] >= usage["jobs"] >= 1
    assert usage["remote"]["requests"] >= 2
    assert usage["local"]["estimated_requests"] == usage["remote"]["estimated_requests"] == 0
    total = usage["local"]["total_tokens"] + usage["remote"]["total_tokens"]
    assert answer["usage"]["total_tokens"] == total
    if protocol == "minions":
        assert answer["minions"]["synthesised"]
