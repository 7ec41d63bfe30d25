"""What an operator learns of each answer: latencies at `/metrics`, and one line of the log."""

from served import served

PROMPT = "def quite_unlike_any_other_name("
BODY = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}


async def test_each_answer_is_timed_and_logged_without_its_text(target, draft, tokenizer, caplog):
    """Latencies have vLLM's names; a line of the log has the id, the counts and no words."""
    async with served(target, tokenizer, draft) as client:
        with caplog.at_level("INFO", logger="serving.answers"):
            headers = {"x-request-id": "mine"}
            await client.post("/v1/completions", json=BODY | {"stream": True}, headers=headers)
            await client.post("/v1/completions", json=BODY | {"n": 2, "seed": 1})
        text = (await client.get("/metrics")).text
    for name in ("time_to_first_token", "e2e_request_latency", "request_time_per_output_token"):
        assert f'vllm:{name}_seconds_count{{model_name="tiny"}} 3.0' in text
    assert 'vllm:request_success_total{finished_reason="length",model_name="tiny"} 3.0' in text
    lines = [record.getMessage() for record in caplog.records if "ended" in record.getMessage()]
    assert len(lines) == 2
    assert "request_id=mine model=tiny" in lines[0]
    assert "completion_tokens=12" in lines[0]
    assert "completion_tokens=24" in lines[1]
    assert "quite_unlike" not in caplog.text
