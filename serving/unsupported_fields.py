"""Known request fields that this endpoint does not have: the one table of them."""

from collections.abc import Mapping
from typing import Any

from serving.errors import UnsupportedError

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (None,),
    "audio": (None,),
    "background": (None, False),
    "bad_words": (None, []),
    "best_of": (None, 1),
    "chat_template": (None,),
    "conversation": (None,),
    "documents": (None, []),
    "echo": (None, False),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_whitespace_pattern": (None,),
    "include": (None, []),
    "length_penalty": (None, 1),
    "logit_bias": (None, {}),
    "logits_processors": (None, []),
    "logprob_token_ids": (None, []),
    "max_completion_tokens": (None,),
    "max_tokens": (None,),
    "messages": (None, []),
    "max_tool_calls": (None,),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "normalize": (None, True),
    "previous_response_id": (None,),
    "prediction": (None,),
    "prompt": (None,),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "repetition_detection": (None,),
    "response_format": (None, {"type": "text"}),
    "return_token_ids": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "stop": (None, "", []),
    "suffix": (None, ""),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "truncate_prompt_tokens": (None,),
    "truncation": (None, "disabled"),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
}
"""Fields that change what the answer means, and the values under which they mean nothing.

A body that declares a field of such a name supports it, and the table is not asked. Fields neither
declared nor listed are benign and ignored.
"""


def refuse_unsupported(extra: Mapping[str, Any] | None) -> None:
    """Raise for a field that would change the meaning and is not supported.

    Raises:
        UnsupportedError: Names the field.
    """
    for name, value in (extra or {}).items():
        neutral = NEUTRAL_VALUES.get(name)
        if neutral is not None and not any(_is_same(value, other) for other in neutral):
            raise UnsupportedError(
                f"{name} {value!r:.60} is not supported; leave it out", param=name
            )


def _is_same(value: object, other: object) -> bool:
    # Python holds False equal to 0, but `best_of: true` asks for something and 1 does not.
    return isinstance(value, bool) == isinstance(other, bool) and value == other
