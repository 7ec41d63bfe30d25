"""Tool calls are found in recorded answers, however they are cut."""

import codecs
import json

import pytest

from serving.tool_parsers import (
    HERMES,
    LLAMA3,
    MISTRAL,
    REQUIRED,
    CallDelta,
    ToolCallParser,
    find_syntax,
)

PARIS = '{"city": "Paris", "note": "a \\"}{[\\" \\\\ é"}'
RECORDED = {
    "hermes, one call": (
        HERMES,
        f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
        "",
        [("weather", PARIS)],
    ),
    "hermes, words and two calls": (
        HERMES,
        'Let me look — twice.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        "Let me look — twice.",
        [("weather", '{"city": "Oslo"}'), ("time", "{}")],
    ),
    "hermes, arguments first": (
        HERMES,
        '<tool_call>{"arguments": {"a": [1, {"b": 2}]}, "name": "f"}</tool_call>',
        "",
        [("f", '{"a": [1, {"b": 2}]}')],
    ),
    "hermes, no call": (HERMES, "1 < 2, and <tool> is no call.\n", None, []),
    "hermes, a broken call": (HERMES, "<tool_call>\nnot JSON</tool_call>", None, []),
    "hermes, a call cut short": (
        HERMES,
        '<tool_call>\n{"name": "f", "arguments": {"a": "b',
        "",
        [("f", '{"a": "b')],
    ),
    "hermes, no end tag": (
        HERMES,
        '<tool_call>\n{"name": "f", "arguments": {}}\n<tool_call>{"name": "g"}',
        "",
        [("f", "{}"), ("g", "{}")],
    ),
    "llama, one call": (
        LLAMA3,
        f'{{"name": "weather", "parameters": {PARIS}}}',
        "",
        [("weather", PARIS)],
    ),
    "llama, tagged and several": (
        LLAMA3,
        '<|python_tag|>{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}',
        "",
        [("f", '{"x": 1}'), ("g", "{}")],
    ),
    "llama, words with braces": (LLAMA3, 'The object is {"name": "x"} here.', None, []),
    "llama, other JSON": (LLAMA3, '{"answer": {"name": 1}}', None, []),
    "mistral, a list": (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}, '
        '{"name": "f", "arguments": {"x": "y"}}]',
        "",
        [("weather", PARIS), ("f", '{"x": "y"}')],
    ),
    "mistral, bare names": (
        MISTRAL,
        'I will ask.[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]get_time{"zone": "CET"}',
        "I will ask.",
        [("weather", '{"city": "Rome"}'), ("get_time", '{"zone": "CET"}')],
    ),
    "mistral, a call id": (
        MISTRAL,
        '[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"x": 1}',
        "",
        [("f", '{"x": 1}')],
    ),
    "mistral, no call": (MISTRAL, "A list: [1, 2], and [TOOLS].", None, []),
    "required": (
        REQUIRED,
        '[{"name": "f", "arguments": {"x": [1, 2]}},\n {"name":"g","arguments":{}}]',
        "",
        [("f", '{"x": [1, 2]}'), ("g", "{}")],
    ),
}


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
