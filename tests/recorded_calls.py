"""Answers with tool calls in the syntax of each family, and what they hold.

The forms are those of the models' cards and chat templates (Hermes 2 Pro, Qwen 2.5; Llama 3.1 and
3.2; Mistral 7B v0.3, Small 3.1, and the names before `[ARGS]` of later ones) and of what servers'
issue trackers show of them: words before and after, several calls, calls that break off.
"""

from serving.tool_parsers import HERMES, LLAMA3, MISTRAL, REQUIRED, ToolSyntax

Recorded = tuple[ToolSyntax, str, str | None, list[tuple[str, str]]]
"""Syntax, text, content (None: the whole text), calls with their arguments as they were written."""

NESTED = (
    '{"days": [{"city": "東京", "hours": [[9, 12.5], [14, -3e2]]}, {"city": null}], '
    '"deep": {"a": {"b": [{}, []]}}, "is_fixed": true, "note": "line\\n\\u00e9 🏔"}'
)
PARIS = '{"city": "Paris", "note": "a \\"}{[\\" \\\\ é"}'
RECORDED: dict[str, Recorded] = {
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
    "hermes, nested and without white space": (
        HERMES,
        f'<tool_call>{{"name":"plan","arguments":{NESTED}}}</tool_call>',
        "",
        [("plan", NESTED)],
    ),
    "hermes, three calls of one function": (
        HERMES,
        "\n".join(
            f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
            for city in ("東京", "São Paulo", "Zürich 🏔")
        ),
        "",
        [("weather", f'{{"city": "{city}"}}') for city in ("東京", "São Paulo", "Zürich 🏔")],
    ),
    "hermes, words after the calls": (
        HERMES,
        'First this.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\nThat is all.',
        "First this.\nThat is all.",
        [("f", "{}")],
    ),
    "hermes, a tag within an argument": (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"x": "a </tool_call> b <tool_call>"}}</tool_call>',
        "",
        [("f", '{"x": "a </tool_call> b <tool_call>"}')],
    ),
    "hermes, a broken call behind a whole one": (
        HERMES,
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{name: g}\n'
        "</tool_call>",
        "<tool_call>\n{name: g}\n</tool_call>",
        [("f", "{}")],
    ),
    "llama, nested": (
        LLAMA3,
        f'{{"name": "plan", "parameters": {NESTED}}}',
        "",
        [("plan", NESTED)],
    ),
    "llama, typed": (
        LLAMA3,
        '{"type": "function", "name": "f", "parameters": {"x": "1"}}',
        "",
        [("f", '{"x": "1"}')],
    ),
    "llama, several untagged": (
        LLAMA3,
        '{"name": "weather", "parameters": {"city": "東京"}}; '
        '{"name": "weather", "parameters": {"city": "Zürich"}};\n{"name": "f", "parameters": {}}',
        "",
        [("weather", '{"city": "東京"}'), ("weather", '{"city": "Zürich"}'), ("f", "{}")],
    ),
    "llama, a call cut short": (
        LLAMA3,
        '{"name": "f", "parameters": {"x": ["a',
        "",
        [("f", '{"x": ["a')],
    ),
    "mistral, nested list": (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "plan", "arguments": {NESTED}, "id": "abcdefghi"}}]',
        "",
        [("plan", NESTED)],
    ),
    "mistral, words and bare names": (
        MISTRAL,
        f'Zwei Städte — also 2.[TOOL_CALLS]weather[ARGS]{{"city": "東京"}}[TOOL_CALLS]plan[ARGS]{NESTED}',
        "Zwei Städte — also 2.",
        [("weather", '{"city": "東京"}'), ("plan", NESTED)],
    ),
    "mistral, a bare call cut short": (
        MISTRAL,
        '[TOOL_CALLS]f[ARGS]{"x": [1, 2',
        "",
        [("f", '{"x": [1, 2')],
    ),
}
