"""The traffic log: one JSON line a request, counts and times only, never text.

The planner reads these lines as a workload. Fields of schema 1:

- `schema_version`: 1.
- `arrival_unix_seconds`: when the request's headers arrived.
- `request_id`: the `x-request-id` the client sent or the router made.
- `tenant`: the name of the client's key, never the key; null where it is not known or the router has
  no keys.
- `model`: the model or adapter asked for, null where it does not exist.
- `replica`: URL of the replica that answered or, if none did, of the last one tried; else null.
- `stream`: whether the answer was streamed.
- `prompt_tokens`, `completion_tokens`: as the replica reported them, null where it did not, as when
  the client left or the stream broke before its end.
- `text_pieces`: pieces of text streamed to the client, each of one token or more: the least number
  of completion tokens where the true one is null; null for answers not streamed.
- `ttft_seconds`: arrival to the first byte of the stream; null for answers not streamed.
- `tpot_seconds`: first to last piece of the stream ÷ (completion tokens less 1); null below 2.
- `duration_seconds`: arrival to the end of the answer.
- `status`: the HTTP status; the code of the error event for a stream that broke; 499 where the
  client left first.
- `retries`: how often the request went to another replica.
- `choice`: only where the client named a pool: the `pool`, the `reason` of the pick, and the `goals`,
  goal to weight.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.line_file import LineFile
from router.traffic_log_config import TrafficLogConfig
from router.usage import UNKNOWN, Usage

SCHEMA_VERSION = 1

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request; filled in on its way. Times of `*_at` are monotonic seconds."""

    arrival_unix_seconds: float
    arrived_at: float
    request_id: str
    tenant: str | None = None
    model: str | None = None
    replica: str | None = None
    is_stream: bool = False
    usage: Usage = UNKNOWN
    num_text_pieces: int | None = None
    attempted_at: float | None = None
    """When the attempt began that was answered."""
    first_byte_at: float | None = None
    last_byte_at: float | None = None
    status: int = 500
    num_retries: int = 0
    cost_usd: float | None = None
    """Where several models took part; otherwise the model's price tells."""
    has_legs: bool = False
    """Whether requests to replicas were made in its place; they have the lines, and it has none."""
    choice: Mapping[str, object] | None = None

    def line(self, *, ended_at: float) -> str:
        """Return the record as one line of JSON, without the line end."""
        content: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "arrival_unix_seconds": self.arrival_unix_seconds,
            "request_id": self.request_id,
            "tenant": self.tenant,
            "model": self.model,
            "replica": self.replica,
            "stream": self.is_stream,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "text_pieces": self.num_text_pieces,
            "ttft_seconds": self.ttft_seconds,
            "tpot_seconds": self.tpot_seconds,
            "duration_seconds": round(ended_at - self.arrived_at, 6),
            "status": self.status,
            "retries": self.num_retries,
        }
        if self.choice is not None:
            content["choice"] = self.choice
        return _encode(content)

    @property
    def ttft_seconds(self) -> float | None:
        """Arrival to the first byte of the stream; None for answers not streamed."""
        if self.first_byte_at is None:
            return None
        return round(self.first_byte_at - self.arrived_at, 6)

    @property
    def tpot_seconds(self) -> float | None:
        """Between tokens of the stream; None for answers not streamed, or without token counts."""
        num_tokens = self.usage.completion_tokens
        if self.first_byte_at is None or self.last_byte_at is None or not num_tokens:
            return None
        if num_tokens < 2:
            return None
        return round((self.last_byte_at - self.first_byte_at) / (num_tokens - 1), 9)


class TrafficLog(LineFile):
    """The file of the lines; one log serves several processes.

    Raises:
        StartError: If the file cannot be opened for appending.
    """

    def __init__(
        self, path: Path | None, *, rotate_bytes: int | None = None, keep: int = 9
    ) -> None:
        super().__init__(path, setting="traffic_log", rotate_bytes=rotate_bytes, keep=keep)


def open_traffic_log(config: TrafficLogConfig | None) -> TrafficLog:
    """Return the log of a configuration; without one a log that keeps nothing.

    Raises:
        StartError: If the file cannot be opened for appending.
    """
    if config is None:
        return TrafficLog(None)
    rotate_bytes = None if config.rotate_bytes is None else int(config.rotate_bytes)
    return TrafficLog(config.path, rotate_bytes=rotate_bytes, keep=config.keep)
