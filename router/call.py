"""A completion request: what the router reads of it, and the bytes it sends on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from router.base import Query
from router.body_edit import edited, value_span
from router.errors import MalformedBodyError, ParameterError

LARGE_BODY_BYTES = 2**18
"""From here on a body is read in a thread, by `read_large_call`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it goes to a replica."""

    target: str
    """Path and query string."""
    headers: tuple[tuple[str, str], ...]
    """What is sent to the replica."""
    body: bytes
    """The client's bytes; where `withholds_usage`, with usage asked for and all else as it was."""
    query: Query
    withholds_usage: bool
    """Whether the router asked for usage in the client's place."""


def with_model(call: Call, model: str) -> Call:
    """Return the request with another model's name in its body, every other byte as it was."""
    body = edited(call.body.decode("utf-8"), {"model": model}).encode()
    return replace(call, body=body, query=call.query.of_model(model))


def read_object(body: bytes, *, loads: Callable[[str], object] = json.loads) -> dict[str, object]:
    """Return a request body as a dictionary, parsed by `loads`.

    Raises:
        MalformedBodyError: If it is not a JSON object in UTF-8.
    """
    try:
        content = loads(body.decode("utf-8"))
    except RecursionError:
        raise MalformedBodyError("the body is nested too deeply; flatten it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}; correct it") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise MalformedBodyError("the body holds a number of too many digits; shorten it") from None
    if not isinstance(content, dict):
        raise MalformedBodyError("the body is not a JSON object; send one")
    return content


def read_text_field(fields: dict[str, object], name: str) -> str:
    """Return a required field of a body, a non-empty string.

    Raises:
        ParameterError: If it is missing, empty or of another type.
    """
    value = fields.get(name)
    if value is None:
        raise ParameterError(name, "is required; add it to the body")
    if not isinstance(value, str) or not value:
        raise ParameterError(name, "must be a non-empty string")
    return value


def read_call(
    body: bytes,
    *,
    target: str,
    headers: tuple[tuple[str, str], ...],
    loads: Callable[[str], object] = json.loads,
) -> Call:
    """Return the request in `body`; nothing but `model`, `stream` and usage options is judged.

    Servers differ in what else than true they take for true, and a stream the router did not
    expect would lose its token counts: what is no boolean is refused, as OpenAI does.

    Raises:
        MalformedBodyError: If the body is not a JSON object in UTF-8.
        ParameterError: If `model` is missing or no string, or `stream` or
            `stream_options.include_usage` is no boolean.
    """
    fields = read_object(body, loads=loads)
    model = read_text_field(fields, "model")
    options = fields.get("stream_options")
    asks = _read_flag(fields, "stream")
    if isinstance(options, dict):
        asks = asks and not _read_flag(options, "include_usage", within="stream_options.")
    elif options is not None:
        asks = False  # options of a wrong type go to the replica untouched; its refusal is right
    return Call(
        target=target,
        headers=headers,
        body=_with_usage(body.decode("utf-8"), fields).encode() if asks else body,
        query=Query(model=model, fields=fields),
        withholds_usage=asks,
    )


def read_large_call(body: bytes, *, target: str, headers: tuple[tuple[str, str], ...]) -> Call:
    """Return `read_call`'s request, its prompt counted, in a thread that lets others run.

    Raises:
        RouterError: As `read_call`.
    """
    call = read_call(body, target=target, headers=headers, loads=_loads_politely)
    _ = call.query.prompt.size  # worked out here, and kept
    return call


def _loads_politely(text: str) -> object:
    """Return `json.loads`, which holds the interpreter to its end but where it calls Python.

    It does so for every object and whole number here, which doubles its time: between two of them
    the event loop gets its turn.
    """
    return json.loads(text, parse_int=lambda digits: int(digits), object_hook=lambda pairs: pairs)


def _read_flag(fields: dict[str, object], name: str, *, within: str = "") -> bool:
    """Return an optional boolean; null and a missing field are false."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ParameterError(within + name, f"is {value!r:.40}; write true or false")


def _with_usage(text: str, fields: dict[str, object]) -> str:
    """Splice `stream_options.include_usage` into `text`, a JSON object equal to `fields`."""
    if "stream_options" not in fields:
        start = text.index("{") + 1
        return text[:start] + '"stream_options":{"include_usage":true},' + text[start:]
    options = fields["stream_options"]
    assert options is None or isinstance(options, dict)
    start, end = value_span(text, "stream_options")
    return text[:start] + json.dumps({**(options or {}), "include_usage": True}) + text[end:]
