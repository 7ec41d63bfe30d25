"""MinionS and Minion through the router, with scripted models that speak real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from minions_models import (
    EVERY_WORD,
    QUESTION,
    Messages,
    ScriptedModel,
    direct,
    directing,
    finding,
    num_tokens,
    plan,
    planted_document,
    read_part,
    verdict,
)
from router_under_test import FAST_HEALTH, OpenRouter, ReadLines

NAME = "minions/reader+director"
CHAT = "minion/reader+director"


def body(document: str, **more: object) -> dict[str, object]:
    """Return a request about `document`."""
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": NAME, "messages": messages, "documents": [document], **more}


@asynccontextmanager
async def pair(
    open_router: OpenRouter, *, local=read_part, remote=direct, **minions: object
) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedModel, ScriptedModel]]:
    """Yield a client of a router over two scripted models, and the models."""
    async with (
        ScriptedModel("reader", local) as reader,
        ScriptedModel("director", remote) as director,
        open_router(reader, director, minions=minions, health=FAST_HEALTH) as client,
    ):
        yield client, reader, director


async def ask(client: httpx.AsyncClient, content: dict[str, object]) -> dict:
    """Return the JSON of an answer."""
    response = await client.post("/v1/chat/completions", json=content)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(answer: dict) -> str:
    """Return the answer's text."""
    return answer["choices"][0]["message"]["content"]


async def test_planted_facts_are_found_for_a_fraction_of_the_remote_tokens(open_router) -> None:
    """Of 100,000 tokens with 40 facts every one is found, at most 1/5.7 of them sent away."""
    document, facts = planted_document(tokens=100_000, num_facts=40)
    assert num_tokens(document) >= 100_000
    async with pair(open_router) as (client, reader, director):
        reader.delay_seconds = 0.002
        answer = await ask(client, body(document))
    assert {f"{name}={word}" for name, word in facts.items()} == set(text_of(answer).split("; "))
    assert answer["minions"]["result"] == "finished"
    assert director.total_tokens <= num_tokens(document) / 5.7
    usage = answer["usage"]
    assert usage["minions"]["remote"]["total_tokens"] == director.total_tokens
    assert usage["minions"]["local"]["total_tokens"] == reader.total_tokens
    assert usage["total_tokens"] == director.total_tokens + reader.total_tokens
    assert usage["minions"]["jobs"] == len(reader.requests)
    assert 1 < reader.most_running <= 16
    assert not any(document[1000:1200] in json.dumps(each) for each in director.requests)


async def test_every_fault_of_the_remote_ends_in_a_marked_answer(open_router) -> None:
    """Malformed, over-limit and endless directions end in an answer of what was found."""
    document, facts = planted_document(tokens=4000, num_facts=5)
    task = dict(EVERY_WORD)
    cases = {
        "plan_refused": (directing(plans="import os; os.system('ls')"), {}),
        "job_limit": (directing(plans=plan(task, task, task, task)), {"max_jobs": 6}),
        "round_limit": (directing(verdicts=verdict("need_more")), {"max_rounds": 3}),
    }
    for result, (remote, limits) in cases.items():
        async with pair(open_router, remote=remote, **limits) as (client, reader, director):
            answer = await ask(client, body(document))
        assert answer["minions"]["result"] == result
        assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items()), result
        assert len(director.requests) <= 12
        assert len(reader.requests) <= limits.get("max_jobs", 1000)


@pytest.mark.parametrize(
    "plans",
    [
        "no JSON",
        plan(),
        plan(EVERY_WORD | {"code": "print(1)"}),
        plan(EVERY_WORD | {"chunks": {"kind": "range", "first": 3, "last": 2}}),
        plan(EVERY_WORD | {"chunks": {"kind": "python", "source": "x"}}),
        plan(EVERY_WORD, fold="eval"),
        plan(EVERY_WORD | {"earlier": [1]}),
        "[" * 10_000,
        '{"tasks": [{"task": ' + "[" * 10_000,
    ],
)
async def test_a_malformed_plan_is_told_and_then_refused(open_router, plans) -> None:
    """The remote reads what is wrong a bounded number of times; then the question itself is run."""
    document, facts = planted_document(tokens=2000, num_facts=2)
    async with pair(open_router, remote=directing(plans=plans), plan_attempts=2) as models:
        client, reader, director = models
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "plan_refused"
    told = [each["messages"][-1]["content"] for each in director.requests]
    assert sum("That cannot be used" in text for text in told) == 1
    assert QUESTION in reader.requests[0]["messages"][-1]["content"]
    assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_tokens_of_a_looping_remote_stay_within_the_limit(open_router) -> None:
    """A remote that always needs more stops at its tokens, and the answer says so."""
    document, facts = planted_document(tokens=4000, num_facts=5)
    looping = directing(verdicts=verdict("need_more", None, scratchpad="x" * 4000))
    limits = {"max_rounds": 50, "remote_tokens": 6000, "final_answer_tokens": 512}
    async with pair(open_router, remote=looping, **limits) as (client, _, director):
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "token_limit"
    assert director.total_tokens <= 6000
    assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_a_slow_local_model_is_cut_off_and_its_findings_used(open_router) -> None:
    """When the time is over jobs are cancelled and what was found is judged."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    limits = {"wall_seconds": 4.0, "closing_seconds": 3.0, "max_concurrent_jobs": 2}
    async with pair(open_router, **limits) as (client, reader, _):
        reader.delay_seconds = 0.4
        answer = await ask(client, body(document, stream=False))
        await asyncio.sleep(0.1)
        assert reader.num_running == 0
    assert answer["minions"]["result"] == "time_limit"
    assert answer["minions"]["synthesised"]
    assert 0 < answer["usage"]["minions"]["jobs"] < len(reader.requests)


async def test_dead_local_replicas_end_in_a_marked_answer(open_router) -> None:
    """Without the local model the remote closes, after a few failures and not all the jobs."""
    document, _ = planted_document(tokens=50_000, num_facts=5)
    async with pair(open_router) as (client, reader, _):
        reader.kill()
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "local_unavailable"
    assert answer["usage"]["minions"]["failed"] == answer["usage"]["minions"]["jobs"] > 8
    assert answer["minions"]["problems"]
    assert reader.requests == []


async def test_a_dead_remote_leaves_the_local_findings(open_router) -> None:
    """Without the remote the question is run as it is and the findings are the answer."""
    document, facts = planted_document(tokens=4000, num_facts=5)

    def local(messages: Messages) -> str:
        return read_part([{"content": "".join(each["content"] for each in messages)}])

    for name in (NAME, CHAT):
        async with pair(open_router, local=local) as (client, _, director):
            director.kill()
            answer = await ask(client, body(document) | {"model": name})
        assert answer["minions"]["result"] == "remote_unavailable"
        assert answer["minions"]["synthesised"] is False
        assert answer["usage"]["minions"]["remote"]["total_tokens"] == 0
        assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_two_dead_models_are_an_error(open_router) -> None:
    """With nobody to answer there is no answer to mark: 503, streamed or not."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    for name in (NAME, CHAT):
        async with pair(open_router) as (client, reader, director):
            reader.kill()
            director.kill()
            content = body(document) | {"model": name}
            whole = await client.post("/v1/chat/completions", json=content)
            stream = await client.post("/v1/chat/completions", json=content | {"stream": True})
        assert whole.status_code == 503
        assert "gave no answer" in whole.json()["error"]["message"]
        assert stream.text.rstrip().endswith("}}")
        assert '"code":503' in stream.text


async def test_garbage_of_the_local_model_counts_as_abstained(open_router) -> None:
    """A job whose answer is no JSON is asked once more, then it abstains."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    for garbage in ("I think so!", '{"answer": ', "{}"):
        async with pair(open_router, local=lambda _, text=garbage: text) as (client, reader, _):
            answer = await ask(client, body(document, max_tokens=50))
        jobs = answer["usage"]["minions"]["jobs"]
        assert jobs > 0
        assert answer["usage"]["minions"]["abstentions"] == jobs
        assert len(reader.requests) == 2 * jobs
        assert answer["minions"]["result"] == "round_limit"


async def test_one_repair_saves_a_job(open_router) -> None:
    """A local model that mends its JSON when told loses nothing."""
    document, facts = planted_document(tokens=4000, num_facts=5)

    def careless(messages: Messages) -> str:
        return "Sure: {" if len(messages) == 2 else read_part(messages[:2])

    async with pair(open_router, local=careless) as (client, _, _):
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "finished"
    assert answer["usage"]["minions"]["abstentions"] == 0
    assert len(text_of(answer).split("; ")) == len(facts)


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


async def test_later_rounds_see_what_earlier_ones_found(open_router) -> None:
    """A task that names an earlier one has its findings shown to its jobs."""
    document, _ = planted_document(tokens=2000, num_facts=1)

    def remote(messages: Messages) -> str:
        content = messages[-1]["content"]
        if "Tasks so far" in content:
            return plan(
                {
                    "task": "Check it",
                    "chunks": {"kind": "range", "first": 1, "last": 1},
                    "earlier": [1],
                }
            )
        if "second" in content and "tasks times chunks" not in content:
            return verdict("final", "checked")
        return directing(verdicts=verdict("need_more", None, feedback="check it"))(messages)

    def local(messages: Messages) -> str:
        content = messages[-1]["content"]
        return finding("second") if "Known so far" in content else read_part(messages)

    async with pair(open_router, local=local, remote=remote) as (client, reader, _):
        answer = await ask(client, body(document))
    assert text_of(answer) == "checked"
    assert answer["usage"]["minions"]["rounds"] == 2
    assert "D00x" in reader.requests[-1]["messages"][-1]["content"].partition("Task:")[0]


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
    pairs = [{"local": "reader", "remote": "director"}]
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
