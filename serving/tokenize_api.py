"""Tokenising and its reverse, in vLLM's shapes.

Source: vLLM 0.32, `entrypoints/serve/tokenize/protocol.py`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from serving import unsupported_fields
from serving.chat_messages import ChatMessage
from serving.errors import RequestError
from serving.prompts import ChatOptions, Prompt, PromptReader
from serving.tools import Tool


class TokenizeBody(BaseModel):
    """Body of `POST /tokenize`: a prompt or messages."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: StrictBool = True
    """For a prompt; a chat template writes its own."""
    add_generation_prompt: StrictBool = True
    continue_final_message: StrictBool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: StrictBool | None = None


class DetokenizeBody(BaseModel):
    """Body of `POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


class TokenizeAnswer(BaseModel):
    """Answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(BaseModel):
    """Answer of `POST /detokenize`."""

    prompt: str


_OF_THE_PROMPT = ("chat_template", "documents", "suffix", "truncate_prompt_tokens")
"""Fields of a generation that change its prompt; of the others a body may be a whole chat's."""


def tokenize(body: TokenizeBody, prompts: PromptReader, *, context_tokens: int) -> TokenizeAnswer:
    """Return the token ids of a prompt or of a conversation.

    Raises:
        RequestError: If the body holds neither or both, or the template refuses the messages.
    """
    extra = body.model_extra or {}
    unsupported_fields.refuse_unsupported({n: extra[n] for n in _OF_THE_PROMPT if n in extra})
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("send either prompt or messages", param="prompt")
    if body.prompt is not None:
        ids = prompts.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    else:
        ids = list(_chat(body, prompts).ids)
    return TokenizeAnswer(
        count=len(ids),
        max_model_len=context_tokens,
        tokens=ids,
        token_strs=prompts.pieces(ids) if body.return_token_strs else None,
    )


def _chat(body: TokenizeBody, prompts: PromptReader) -> Prompt:
    options = ChatOptions(
        tools=tuple(body.tools or ()),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        template_kwargs=body.chat_template_kwargs,
    )
    return prompts.chat(body.messages or [], options)


def detokenize(body: DetokenizeBody, prompts: PromptReader) -> DetokenizeAnswer:
    """Return the text of token ids, special tokens included.

    Raises:
        RequestError: If an id is none of the model's.
    """
    prompts.check_ids(body.tokens, "tokens")
    return DetokenizeAnswer(prompt=prompts.decode(body.tokens))
