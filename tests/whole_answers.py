"""Whether an answer of a completion or a chat came whole."""

import json
from typing import Any


def stream_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a streamed answer, which ends as OpenAI's do, or with an error."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    is_whole = data[-1] == "[DONE]"
    events = [json.loads(line) for line in (data[:-1] if is_whole else data)]
    assert is_whole or "error" in events[-1], f"a stream ends with {data[-1][:200]}"
    return events


def whole_choices(events: list[dict[str, Any]], num_choices: int) -> list[tuple[str, str]]:
    """Return text and finish reason of each choice of a stream; each has just one reason."""
    parts = [part for event in events for part in event["choices"]]
    texts = dict.fromkeys(range(num_choices), "")
    reasons: dict[int, str] = {}
    for part in parts:
        texts[part["index"]] += text_of(part)
        if part["finish_reason"] is not None:
            assert part["index"] not in reasons
            reasons[part["index"]] = part["finish_reason"]
    assert sorted(reasons) == list(range(num_choices))
    return [(texts[index], reasons[index]) for index in range(num_choices)]


def text_of(part: dict[str, Any]) -> str:
    """Return the text of a choice, whole or streamed, of a completion or a chat."""
    if "text" in part:
        return part["text"]
    return part.get("message", part.get("delta", {})).get("content") or ""
