"""From what a client sends to the token ids of a prompt."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from serving.chat_messages import ChatMessage
from serving.errors import RequestError, UnsupportedError
from serving.tools import Tool

_TOOL_PROMPT = """You may call functions. Their signatures are:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as a JSON object:
<tool_call>
{{"name": <function-name>, "arguments": <arguments-json-object>}}
</tool_call>"""
"""What a model is told whose chat template has no place for tools; Hermes's syntax."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and its text where it came as one."""

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation is written out."""

    tools: tuple[Tool, ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] | None = None


class PromptReader:
    """Reads prompts with one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        num_ids: Callable[[], int],
    ) -> None:
        """Read for `model_name`, which takes ids below `num_ids`, asked when a prompt comes."""
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._num_ids = num_ids

    def read_all(self, prompt: Any, param: str = "prompt") -> list[Prompt]:
        """Return each prompt of a string, a list of strings, ids, or a list of lists of ids.

        Raises:
            RequestError: If one is empty or names an id that there is not.
        """
        is_one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
        prompts = [prompt] if is_one else prompt
        if not prompts:
            raise RequestError(f"{param} is empty; send at least one token", param=param)
        return [self._read(one, param) for one in prompts]

    def _read(self, prompt: str | list[int], param: str) -> Prompt:
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise RequestError(f"{param} is empty; send at least one token", param=param)
        self.check_ids(ids, param)
        return Prompt(tuple(ids), prompt if isinstance(prompt, str) else None)

    def text_of(self, prompt: Prompt) -> str:
        """Return a prompt's text, which `echo` repeats."""
        return self.decode(list(prompt.ids)) if prompt.text is None else prompt.text

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return a text's token ids."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def pieces(self, ids: list[int]) -> list[str]:
        """Return the vocabulary's entries of token ids."""
        return list(self._tokenizer.convert_ids_to_tokens(ids))

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def check_ids(self, ids: list[int], param: str) -> None:
        """Refuse ids that the model does not have.

        Raises:
            RequestError: Names the id.
        """
        num_ids = self._num_ids()
        wrong = next((t for t in ids if not 0 <= t < num_ids), None)
        if wrong is not None:
            raise RequestError(
                f"{param} holds token {wrong}; ids go from 0 to {num_ids - 1}",
                param=param,
            )

    def template(self) -> str:
        """Return the chat template; empty where the tokenizer has none."""
        if not self._tokenizer.chat_template:
            return ""
        return str(self._tokenizer.get_chat_template(tools=[{}]))

    def chat(self, messages: list[ChatMessage], options: ChatOptions) -> Prompt:
        """Return a conversation as the chat template writes it.

        Raises:
            UnsupportedError: If the tokenizer has no chat template.
            RequestError: If the template refuses the messages.
        """
        if not self._tokenizer.chat_template:
            raise UnsupportedError(
                f"model {self._model_name!r} has no chat template; use /v1/completions",
                param="messages",
            )
        self._check(options)
        contents = [message.for_template() for message in messages]
        tools: list[Any] = [tool.model_dump(exclude_none=True) for tool in options.tools]
        if tools and "tools" not in self.template():
            lines = "\n".join(json.dumps(tool) for tool in tools)
            contents.insert(0, {"role": "system", "content": _TOOL_PROMPT.format(tools=lines)})
            tools = []
        try:
            text = self._tokenizer.apply_chat_template(
                contents,
                tools=tools or None,
                add_generation_prompt=options.add_generation_prompt,
                continue_final_message=options.continue_final_message,
                tokenize=False,
                **(options.template_kwargs or {}),
            )
        # A template is code that came with the model; it meets odd messages with any of these.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RequestError(
                f"the chat template refuses these messages: {reason}", param="messages"
            ) from None
        ids = self._tokenizer.encode(str(text), add_special_tokens=False)
        if not ids:
            raise RequestError(
                "the chat template writes no text of these messages", param="messages"
            )
        return Prompt(tuple(ids), str(text))

    def _check(self, options: ChatOptions) -> None:
        if options.add_generation_prompt and options.continue_final_message:
            raise RequestError(
                "continue_final_message and add_generation_prompt are both true; set one to false",
                param="continue_final_message",
            )
        taken = inspect.signature(self._tokenizer.apply_chat_template).parameters
        wrong = sorted(taken.keys() & (options.template_kwargs or {}).keys())
        if wrong:
            raise RequestError(
                f"chat_template_kwargs holds {wrong[0]!r}, which is not the template's; leave it out",
                param="chat_template_kwargs",
            )
