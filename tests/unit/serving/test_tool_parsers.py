"""Tool calls are found in recorded answers, however they are cut."""

import codecs
import json

import pytest
from recorded_calls import RECORDED

from serving.tool_parsers import (
    HERMES,
    LLAMA3,
    MISTRAL,
    CallDelta,
    ToolCallParser,
    find_syntax,
)


def read(syntax, pieces, **fields):
    parser = ToolCallParser(syntax, **fields)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    content = "".join(part for part in parts if isinstance(part, str))
    calls: list[list[str]] = []
    for part in parts:
        if isinstance(part, CallDelta):
            if part.name is not None:
                assert part.index == len(calls)
                assert part.id
                calls.append([part.name, ""])
            assert part.index == len(calls) - 1
            calls[-1][1] += part.arguments
    return content, [tuple(call) for call in calls]


@pytest.mark.parametrize("name", RECORDED)
def test_calls_are_found_whole_and_split_at_every_byte(name):
    """Content and calls are the same for the whole text, each split of its bytes, and single bytes."""
    syntax, text, content, calls = RECORDED[name]
    expected = (text if content is None else content), calls
    assert read(syntax, [text]) == expected
    raw = text.encode()
    for cut in range(len(raw) + 1):
        decoder = codecs.getincrementaldecoder("utf-8")()
        assert read(syntax, [decoder.decode(raw[:cut]), decoder.decode(raw[cut:])]) == expected
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert read(syntax, [decoder.decode(bytes([byte])) for byte in raw]) == expected


def test_whole_arguments_are_json():
    """The recorded arguments that ended are read back as they were meant."""
    _, calls = read(*RECORDED["mistral, a list"][:2])
    assert json.loads(calls[0][1])["note"] == 'a "}{[" \\ é'


def test_arguments_stream_before_the_call_ends():
    """A long argument comes out piece by piece, not at its end."""
    parser = ToolCallParser(HERMES)
    parser.push('<tool_call>{"name": "f", "arguments": ')
    assert parser.push('{"text": "once') == [CallDelta(0, arguments='{"text": "once')]
    assert parser.push(" upon") == [CallDelta(0, arguments=" upon")]


def test_calls_beyond_the_limit_are_dropped():
    """Where one call is wanted, the first stays."""
    syntax, text, content, calls = RECORDED["hermes, words and two calls"]
    assert read(syntax, [text], most_calls=1) == (content, calls[:1])


def test_arguments_written_as_a_string_are_unwrapped():
    """Some models quote the arguments; clients get the JSON inside."""
    text = '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>'
    assert read(HERMES, [text]) == ("", [("f", '{"x": 1}')])


@pytest.mark.parametrize(
    ("template", "syntax"),
    [
        ("... <tool_call></tool_call> ...", HERMES),
        ("... [TOOL_CALLS] ...", MISTRAL),
        ('{"name": function name, "parameters": dictionary of argument}', LLAMA3),
        ("{{ messages }}", HERMES),
    ],
)
def test_the_template_says_the_syntax(template, syntax):
    """Each family is known by what its template teaches."""
    assert find_syntax(template) is syntax
