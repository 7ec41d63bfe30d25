"""Virtual models on OpenAI's paths: answers, streams, legs, the chat protocol."""

import asyncio
import json

from minions_models import (
    Messages,
    direct,
    finding,
    num_tokens,
    planted_document,
    read_part,
    verdict,
)
from minions_router import CHAT, NAME, ask, body, pair, text_of
from router_under_test import ReadLines


async def test_a_client_that_leaves_cancels_every_job(open_router, read_lines) -> None:
    """Jobs under way end at the replica, and each has its line."""
    document, _ = planted_document(tokens=20_000, num_facts=5)
    for stream in (False, True):
        async with pair(open_router, max_concurrent_jobs=4) as (client, reader, _):
            reader.delay_seconds = 3600
            content = body(document, stream=stream)
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=content))
            async with asyncio.timeout(20):
                while reader.num_running < 4:
                    await asyncio.sleep(0.01)
                asking.cancel()
                while reader.num_running or reader.num_cancelled < 4:
                    await asyncio.sleep(0.01)
            assert len(reader.requests) == 4
    assert sum(line["status"] == 499 for line in read_lines()) == 8


async def test_the_stream_tells_progress_and_then_the_answer(open_router) -> None:
    """Comments come first; the chunks are OpenAI's and say how the answer ended."""
    document, facts = planted_document(tokens=8000, num_facts=5)
    options = {"include_usage": True}
    async with pair(open_router) as (client, _, _):
        whole = await ask(client, body(document))
        content = body(document, stream=True, stream_options=options)
        response = await client.post("/v1/chat/completions", json=content)
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    comments = [event for event in events if event.startswith(":")]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[len(comments) :]]
    assert any("jobs" in comment for comment in comments)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks[:-1])
    assert text == text_of(whole)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["minions"]["result"] == "finished"
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert len(facts) == len(text.split("; "))


async def test_legs_are_requests_of_their_parent(open_router, read_lines: ReadLines) -> None:
    """Every leg has a line with the parent's id and its own model; the parent has none."""
    document, _ = planted_document(tokens=4000, num_facts=2)
    async with pair(open_router) as (client, reader, director):
        headers = {"x-request-id": "parent-7", "authorization": "Bearer client"}
        await client.post("/v1/chat/completions", json=body(document), headers=headers)
        metrics = (await client.get("/metrics")).text
    lines = read_lines()
    assert {line["request_id"] for line in lines} == {"parent-7"}
    by_model = [line["model"] for line in lines]
    assert by_model.count("reader") == len(reader.requests)
    assert by_model.count("director") == len(director.requests) == 3
    assert len(lines) == len(reader.requests) + 3
    assert {each["authorization"] for each in reader.headers} == {"Bearer client"}
    assert (
        'motley_router_minions_answers_total{protocol="minions",result="finished"} 1.0' in metrics
    )


async def test_the_chat_protocol_asks_until_it_knows(open_router) -> None:
    """The remote asks the local model, which has the document, and answers from what it said."""
    document, facts = planted_document(tokens=2000, num_facts=2)

    def converse(messages: Messages) -> str:
        if "It answered" in messages[-1]["content"]:
            said = messages[-1]["content"].partition("It answered:\n")[2]
            return json.dumps({"decision": "final", "answer": said})
        return json.dumps({"decision": "need_more", "message": "List the depots"})

    def local(messages: Messages) -> str:
        assert messages[-1]["content"] == "List the depots"
        return read_part([{"content": messages[0]["content"]}])

    async with pair(open_router, local=local, remote=converse) as (client, reader, director):
        answer = await ask(client, body(document) | {"model": CHAT})
    assert answer["minions"]["result"] == "finished"
    assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())
    assert (len(reader.requests), len(director.requests)) == (1, 2)
    assert director.total_tokens < num_tokens(document) / 2


async def test_the_chat_protocol_ends_however_its_models_behave(open_router) -> None:
    """Endless questions, no JSON, and a dead local model end in a marked answer."""
    document, _ = planted_document(tokens=2000, num_facts=2)
    endless = json.dumps({"decision": "need_more", "message": "And?"})
    cases = {"round_limit": endless, "plan_refused": "hm"}
    for result, said in cases.items():
        async with pair(open_router, remote=lambda _, said=said: said) as (client, _, _):
            answer = await ask(client, body(document) | {"model": CHAT})
        assert answer["minions"]["result"] == result
    async with pair(open_router, remote=lambda _: endless) as (client, reader, _):
        reader.status = 400
        answer = await ask(client, body(document) | {"model": CHAT})
    assert answer["minions"]["result"] == "local_unavailable"


async def test_the_shield_hides_from_the_remote_alone(open_router) -> None:
    """Addresses reach the remote as placeholders, and the client as they are."""
    document = "Write to anna.berg@example.org or call +49 30 1234567.\n\n" * 3

    def local(messages: Messages) -> str:
        assert "anna.berg@example.org" in messages[-1]["content"]
        return finding("anna.berg@example.org, +49 30 1234567", "anna.berg@example.org")

    def remote(messages: Messages) -> str:
        if "Findings" in messages[-1]["content"]:
            return verdict("final", "It is [EMAIL-1] and [PHONE-2].")
        return direct(messages)

    shield = {"emails": True, "phones": True}
    async with pair(open_router, local=local, remote=remote, shield=shield) as models:
        client, _, director = models
        answer = await ask(client, body(document))
    assert text_of(answer) == "It is anna.berg@example.org and +49 30 1234567."
    assert "example.org" not in json.dumps(director.requests)
    assert "1234567" not in json.dumps(director.requests)


async def test_pairs_are_listed_and_others_refused(open_router) -> None:
    """Configured pairs stand in /v1/models; with a list no other pair is offered."""
    unknown = {"local": "reader", "remote": "nobody"}
    pairs = [{"local": "reader", "remote": "director"}, unknown]
    async with pair(open_router, pairs=pairs) as (client, _, _):
        listed = {each["id"] for each in (await client.get("/v1/models")).json()["data"]}
        one = await client.get(f"/v1/models/{NAME}")
        other = await client.post(
            "/v1/chat/completions", json=body("x") | {"model": "minions/director+reader"}
        )
        wrong_path = await client.post("/v1/completions", json={"model": NAME, "prompt": "x"})
    assert listed == {"reader", "director", NAME, CHAT}
    assert one.json()["id"] == NAME
    assert other.status_code == 404
    assert wrong_path.status_code == 400


async def test_without_a_document_the_remote_answers_alone(open_router) -> None:
    """A bare question costs one call to the remote and says that nothing was read."""
    content = {"model": NAME, "messages": [{"role": "user", "content": "Good day"}]}
    async with pair(open_router, remote=lambda _: "Good day to you") as (client, reader, director):
        answer = await ask(client, content)
    assert text_of(answer) == "Good day to you"
    assert answer["minions"]["context"] == "none"
    assert (len(reader.requests), len(director.requests)) == (0, 1)


async def test_servers_without_usage_are_estimated(open_router) -> None:
    """Tokens nobody reported are estimated from bytes, and the answer counts how many."""
    document, _ = planted_document(tokens=4000, num_facts=2)
    async with pair(open_router) as (client, _, director):
        director.reports_usage = False
        answer = await ask(client, body(document))
    remote = answer["usage"]["minions"]["remote"]
    assert remote["estimated_requests"] == 3
    assert 0.7 < remote["total_tokens"] / director.total_tokens < 1.3
