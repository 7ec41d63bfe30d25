"""What the endpoint and the engine's process say to each other over a socket pair.

A frame is four bytes of length and a pickle. Pickle, because both ends are one installation's own
code on a socket without a name, which no third party can reach; nothing a client sends is ever
unpickled. The outputs of one step travel in one frame, as plain tuples: they are the traffic.
"""

import asyncio
import pickle
import socket
import struct
import threading
from dataclasses import dataclass

from serving.engine.grammar import GrammarSource
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine_client import EngineFacts
from serving.errors import ServingError

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Add:
    """To the engine: queue a request; refusals come back as `Refused`."""

    request: GenerationRequest
    """Without its grammar, which holds what cannot travel."""
    grammar: GrammarSource | None


@dataclass(frozen=True, slots=True)
class Abort:
    """To the engine: drop a request, if it is still there."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Call:
    """To the engine: do one of `engine_host`'s named calls, and answer with `Reply`."""

    call_id: int
    name: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """From the engine: the model is loaded."""

    facts: EngineFacts
    adapter_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """From the engine: the model cannot be loaded; the process ends."""

    error: ServingError


@dataclass(frozen=True, slots=True)
class Refused:
    """From the engine: a request was not queued."""

    request_id: str
    error: ServingError


@dataclass(frozen=True, slots=True)
class Reply:
    """From the engine: what a call returned, or the failure it raised."""

    call_id: int
    result: object
    error: ServingError | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """From the engine: what a step made."""

    rows: list[tuple[object, ...]]
    """The fields of `GenerationOutput` in order."""

    @classmethod
    def of(cls, outputs: list[GenerationOutput]) -> "Outputs":
        """Return the message for these outputs."""
        return cls(
            [(o.request_id, o.tokens, o.finish_reason, o.error, o.logprobs) for o in outputs]
        )


ToEngine = Add | Abort | Call
FromEngine = Ready | LoadFailed | Refused | Reply | Outputs


def frame(message: ToEngine | FromEngine) -> bytes:
    """Return a message as it travels."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


async def read_message(reader: asyncio.StreamReader) -> FromEngine | None:
    """Return the engine's next message; None where it has ended."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: FromEngine = pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


class EngineEnd:
    """The engine's end of the socket: blocking, safe to send from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        """Take the socket."""
        self._connection = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: FromEngine) -> None:
        """Send; where the endpoint has gone nobody is left to tell."""
        with self._lock:
            try:
                self._connection.sendall(frame(message))
            except ConnectionError:
                return

    def receive(self) -> ToEngine | None:
        """Wait for the next message; None where the endpoint has ended."""
        try:
            head = self._file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (length,) = _LENGTH.unpack(head)
            content = self._file.read(length)
        except ConnectionError:
            return None
        if len(content) < length:
            return None
        message: ToEngine = pickle.loads(content)
        return message
