"""How input sizes are told without a tokenizer."""

import pytest

from router.base import Query
from router.input_size import InputSizes
from router.prompt_size import PromptSize, prompt_size


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"prompt": "four"}, PromptSize(4, 0)),
        ({"prompt": "für"}, PromptSize(4, 0)),
        ({"prompt": ["ab", "cd"]}, PromptSize(4, 0)),
        ({"prompt": [1, 2, 3]}, PromptSize(0, 3)),
        ({"prompt": [[1, 2], [3]]}, PromptSize(0, 3)),
        ({"messages": [{"role": "user", "content": "four"}]}, PromptSize(4, 0)),
        (
            {
                "messages": [
                    {"role": "system", "content": "ab"},
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "cd"}, {"image_url": {}}],
                    },
                ]
            },
            PromptSize(4, 0, is_all_text=False),
        ),
        ({"messages": [{"content": None}], "tools": [{"a": 1}]}, PromptSize(10, 0)),
        ({"prompt": "\ud800"}, PromptSize(3, 0)),
        ({"messages": "no list"}, PromptSize(0, 0)),
        ({"prompt": 7}, PromptSize(0, 1)),
        ({}, PromptSize(0, 0)),
    ],
)
def test_every_shape_of_prompt_is_counted(fields: dict[str, object], size: PromptSize) -> None:
    """Strings count in bytes, ids one by one, other shapes not at all; parts left out are told."""
    assert prompt_size(fields) == size


def test_the_first_estimate_is_four_bytes_a_token() -> None:
    """Before any answer 400 bytes are 100 tokens, and nothing is one."""
    sizes = InputSizes(["m"])
    assert sizes.estimate(Query("m", {"prompt": "x" * 400})) == 100
    assert sizes.estimate(Query("m", {})) == 1


def test_the_ratio_follows_what_replicas_report() -> None:
    """After many answers at half a token a byte the estimate is within a percent of that."""
    sizes = InputSizes(["m"])
    query = Query("m", {"prompt": "x" * 400})
    for _ in range(1000):
        sizes.learn(query, 200)
    assert sizes.estimate(query) == pytest.approx(200, rel=0.01)
    for _ in range(2000):
        sizes.learn(query, 100)
    assert sizes.estimate(query) == pytest.approx(100, rel=0.01)


def test_an_image_does_not_spoil_the_ratio() -> None:
    """What a replica counts for an image is no text: such bodies teach nothing, their text is counted."""
    sizes = InputSizes(["m"])
    text = {"type": "text", "text": "x" * 400}
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    seen = Query("m", {"messages": [{"role": "user", "content": [text, image]}]})
    read = Query("m", {"messages": [{"role": "user", "content": [text, text]}]})
    sizes.learn(seen, 10_000)
    assert sizes.tokens_per_byte == {"m": 0.25}
    assert sizes.estimate(seen) == 100
    sizes.learn(read, 400)
    assert sizes.tokens_per_byte["m"] > 0.25


def test_what_teaches_nothing_is_ignored() -> None:
    """Missing counts, empty prompts, token ids and other models leave the ratio alone."""
    sizes = InputSizes(["m"])
    for fields, tokens in (
        ({"prompt": "xx"}, None),
        ({"prompt": "xx"}, 0),
        ({}, 9),
        ({"prompt": [1, 2]}, 2),
    ):
        sizes.learn(Query("m", fields), tokens)
    sizes.learn(Query("other", {"prompt": "xx"}), 9)
    assert sizes.tokens_per_byte == {"m": 0.25}
