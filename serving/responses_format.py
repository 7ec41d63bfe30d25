"""Answers of `POST /v1/responses`, whole or as the events of OpenAI's responses API."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from serving.answer_format import event
from serving.answer_parts import Call, Choice, Piece, Usage
from serving.responses_api import ResponsesChat
from serving.tool_parsers import CallDelta


class ResponsesFormat:
    """Writes one response."""

    def __init__(self, body: ResponsesChat) -> None:
        """Answer `body`."""
        self._head = {
            "id": _new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": body.model,
            "error": None,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "truncation": "disabled",
            **body.echoed,
        }
        self._sequence_number = 0
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._finish_reason = "stop"

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the response in one piece."""
        (choice,) = choices
        status = _status(choice.finish_reason)
        output = [_call_item(call, status) for call in choice.calls]
        if choice.text or not output:
            output.insert(0, _message_item(choice.text, status))
        return self._response(choice.finish_reason, output, usage)

    def start(self) -> list[str]:
        """Return the events before the first piece."""
        response = self._head | {"status": "in_progress", "incomplete_details": None}
        response |= {"output": [], "usage": None}
        names = ("response.created", "response.in_progress")
        return [self._event(name, response=response) for name in names]

    def piece(self, piece: Piece) -> list[str]:
        """Return the events of a piece."""
        events = self._text(piece.text) if piece.text else []
        for call in piece.calls:
            events += self._call(call)
        if piece.finish_reason is not None:
            self._finish_reason = piece.finish_reason
            if not self._output and self._open is None:
                events += self._begin_message()
            events += self._close()
        return events

    def end(self, usage: Usage) -> list[str]:
        """Return the event that carries the whole response."""
        response = self._response(self._finish_reason, self._output, usage)
        return [self._event(f"response.{response['status']}", response=response)]

    def failed(self, error: dict[str, object]) -> list[str]:
        """Return the event that ends a stream which failed."""
        content = error["error"]
        assert isinstance(content, dict), "OpenAI's body"
        # Clients of completions look for `error`, those of responses beside it.
        return [self._event("error", **content | {"error": content, "type": "error"})]

    def _response(
        self, finish_reason: str, output: list[dict[str, Any]], usage: Usage
    ) -> dict[str, Any]:
        status = _status(finish_reason)
        is_whole = status == "completed"
        return self._head | {
            "status": status,
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": output,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }

    def _event(self, name: str, /, **fields: Any) -> str:
        content = {"type": name, "sequence_number": self._sequence_number} | fields
        self._sequence_number += 1
        return event(content, name)

    def _text(self, text: str) -> list[str]:
        events = []
        if self._open is None or self._open["type"] != "message":
            events = [*self._close(), *self._begin_message()]
        assert self._open is not None, "a message has begun"
        self._open["content"][0]["text"] += text
        return [*events, self._part_event("output_text.delta", delta=text, logprobs=[])]

    def _begin_message(self) -> list[str]:
        item = _message_item("", "in_progress")
        part = item["content"][0]
        shown = item | {"content": []}
        self._open = item
        return [
            self._event("response.output_item.added", output_index=len(self._output), item=shown),
            self._part_event("content_part.added", part=part),
        ]

    def _call(self, delta: CallDelta) -> list[str]:
        events = []
        if delta.name is not None:
            events = self._close()
            self._open = _call_item(Call(delta.id or "", delta.name), "in_progress")
            index = len(self._output)
            events.append(
                self._event("response.output_item.added", output_index=index, item=self._open)
            )
        if delta.arguments:
            assert self._open is not None, "a call's name comes first"
            self._open["arguments"] += delta.arguments
            events.append(self._item_event("function_call_arguments.delta", delta=delta.arguments))
        return events

    def _close(self) -> list[str]:
        """End the open item, which has reached its end."""
        item = self._open
        if item is None:
            return []
        item["status"] = _status(self._finish_reason)
        if item["type"] == "message":
            part = item["content"][0]
            text = part["text"]
            events = [
                self._part_event("output_text.done", text=text, logprobs=[]),
                self._part_event("content_part.done", part=part),
            ]
        else:
            arguments = item["arguments"]
            events = [
                self._item_event(
                    "function_call_arguments.done", arguments=arguments, name=item["name"]
                )
            ]
        events.append(
            self._event("response.output_item.done", output_index=len(self._output), item=item)
        )
        self._output.append(item)
        self._open = None
        return events

    def _part_event(self, name: str, /, **fields: Any) -> str:
        return self._item_event(name, content_index=0, **fields)

    def _item_event(self, name: str, /, **fields: Any) -> str:
        assert self._open is not None, "called within an item"
        place = {"item_id": self._open["id"], "output_index": len(self._output)}
        return self._event(f"response.{name}", **place, **fields)


def _status(finish_reason: str) -> str:
    return "incomplete" if finish_reason == "length" else "completed"


def _message_item(text: str, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": _new_id("msg"),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }


def _call_item(call: Call, status: str) -> dict[str, Any]:
    return {
        "id": _new_id("fc"),
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
