"""From a parsed body to an answer: tokenise, generate, detokenise."""

import asyncio
import functools
import json
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from serving.detokenizer import StreamingText
from serving.engine.grammar import Grammar, GrammarKind
from serving.engine.guidance import GrammarCompiler
from serving.engine.sequence import GenerationRequest
from serving.engine_client import EngineClient
from serving.errors import (
    ContextLengthError,
    ModelError,
    NotFoundError,
    RequestError,
    ServingError,
    UnsupportedError,
    error_body,
)
from serving.openai_api import AnswerFormat, ChatBody, CompletionBody, GenerateBody, usage

logger = logging.getLogger(__name__)

_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""


@dataclass(slots=True)
class _Tally:
    """What is known of an answer when it ends."""

    prompt_tokens: int
    completion_tokens: int = 0
    finish_reason: str = "stop"

    def usage(self) -> dict[str, int]:
        return usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens)


class AnswerService:
    """Answers completions and chats with one model and its adapters."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        vocabulary_size: int | None = None,
    ) -> None:
        """Serve an engine as `model_name`.

        Args:
            engine: Asked for what is generated.
            tokenizer: The model's.
            model_name: What clients ask for.
            vocabulary_size: Ids a prompt may hold; None is what both tokenizer and model have.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._vocabulary_size = vocabulary_size
        self._tokenizer_fault: str | None = None

    @property
    def model_name(self) -> str:
        """Name of the base model."""
        return self._model_name

    def model_names(self) -> list[str]:
        """Return the base model's name, then the adapters'."""
        return [self._model_name, *self._engine.adapter_names]

    async def prepare(self, body: GenerateBody, request_id: str) -> GenerationRequest:
        """Check a body and turn it into the engine's request; a grammar compiles in a thread.

        Raises:
            RequestError: If it cannot be served as asked.
        """
        body.refuse_unsupported()
        if body.model not in self.model_names():
            raise NotFoundError(
                f"model {body.model[:80]!r} does not exist; this endpoint serves {self.model_names()}",
                param="model",
            )
        prompt = self._prompt(body)
        return GenerationRequest(
            # Clients choose their ids and may repeat one; the engine's are our own.
            request_id=f"{request_id}-{secrets.token_hex(8)}",
            prompt=tuple(prompt),
            params=body.sampling(self._max_tokens(body, len(prompt))),
            seed=body.seed % 2**63 if body.seed is not None else secrets.randbits(62),
            adapter_name=None if body.model == self._model_name else body.model,
            grammar=await self._grammar(body),
        )

    async def answer(self, body: GenerateBody, request: GenerationRequest) -> dict[str, Any]:
        """Return the whole answer.

        Raises:
            ServingError: If the engine refuses or fails.
        """
        tally = _Tally(len(request.prompt))
        pieces = [piece async for piece in self._text(body, request, tally)]
        form = AnswerFormat(model=body.model, is_chat=isinstance(body, ChatBody))
        return form.whole("".join(pieces), tally.finish_reason, tally.usage())

    async def stream(self, body: GenerateBody, request: GenerationRequest) -> AsyncGenerator[str]:
        """Yield the answer as server-sent events; an error after the start is an event too.

        Raises:
            ServingError: If the engine refuses, before the first event.
        """
        form = AnswerFormat(model=body.model, is_chat=isinstance(body, ChatBody))
        tally = _Tally(len(request.prompt))
        is_started = False
        try:
            async with aclosing(self._text(body, request, tally)) as pieces:
                async for piece in pieces:
                    if not is_started and (opening := form.opening()) is not None:
                        yield _event(opening)
                    is_started = True
                    if piece:
                        yield _event(form.chunk(piece, None))
        except ServingError as error:
            if not is_started:
                raise
            logger.warning("stream failed request_id=%s error=%s", request.request_id, error)
            yield _event(error_body(error)[1])
            return
        yield _event(form.chunk("", tally.finish_reason))
        if body.wants_usage_chunk():
            yield _event(form.usage_chunk(tally.usage()))
        yield "data: [DONE]\n\n"

    async def _text(
        self, body: GenerateBody, request: GenerationRequest, tally: _Tally
    ) -> AsyncGenerator[str]:
        """Yield the text of each engine output, maybe empty, and keep `tally`."""
        text = StreamingText(self._tokenizer.backend_tokenizer, body.stops())
        async with aclosing(self._engine.generate(request)) as outputs:
            async for output in outputs:
                pieces = []
                for token in output.tokens:
                    pieces.append(text.push(token))
                    if text.is_stopped:
                        break
                tally.completion_tokens = text.num_tokens
                if output.finish_reason is not None and not text.is_stopped:
                    tally.finish_reason = output.finish_reason
                    pieces.append(text.finish())
                yield "".join(pieces)
                if text.is_stopped:
                    return

    async def _grammar(self, body: GenerateBody) -> Grammar | None:
        """Return what the answer must follow, compiled beside the event loop and the engine."""
        constraint = body.constraint()
        if constraint is None:
            return None
        try:
            return await asyncio.to_thread(self._compile, constraint.kind, constraint.source)
        except RequestError as error:
            raise RequestError(str(error), param=constraint.param) from None

    def _compile(self, kind: GrammarKind, source: str) -> Grammar:
        return self._compiler.compile(kind, source)

    @functools.cached_property
    def _compiler(self) -> GrammarCompiler:
        """The compiler, made when the first grammar comes; two first ones may make it twice.

        Raises:
            UnsupportedError: If the model has no token that ends a text, or a tokenizer whose
                tokens cannot be read as bytes.
        """
        if self._tokenizer_fault is not None:
            raise self._no_grammar(self._tokenizer_fault)
        facts = self._engine.facts
        if not facts.eos_ids:
            raise self._no_grammar("has no end-of-text token")
        try:
            return GrammarCompiler(
                self._tokenizer.backend_tokenizer.to_str(),
                vocabulary_size=facts.vocabulary_size,
                end_ids=facts.eos_ids,
            )
        except ModelError as error:
            logger.warning("no structured outputs model=%s reason=%s", self._model_name, error)
            self._tokenizer_fault = f"has a tokenizer that no grammar can follow ({error})"
            raise self._no_grammar(self._tokenizer_fault) from None

    def _no_grammar(self, reason: str) -> UnsupportedError:
        return UnsupportedError(
            f"model {self._model_name!r} {reason}, so no answer of it can be constrained; leave "
            "response_format and structured_outputs out"
        )

    def _prompt(self, body: GenerateBody) -> list[int]:
        if isinstance(body, ChatBody):
            return self._chat_prompt(body)
        assert isinstance(body, CompletionBody), "bodies are completions or chats"
        prompt: Any = body.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) != 1:
                raise UnsupportedError(
                    f"prompt holds {len(prompt)} prompts; send one a request", param="prompt"
                )
            prompt = prompt[0]
        if isinstance(prompt, str):
            prompt = self._tokenizer.encode(prompt)
        if not prompt:
            raise RequestError("prompt is empty; send at least one token", param="prompt")
        # An embedding may be padded beyond the tokenizer's ids, or a tokenizer hold unused ones.
        num_ids = self._vocabulary_size or min(
            len(self._tokenizer), self._engine.facts.vocabulary_size
        )
        wrong = next((t for t in prompt if not 0 <= t < num_ids), None)
        if wrong is not None:
            raise RequestError(
                f"prompt holds token {wrong}; ids go from 0 to {num_ids - 1}",
                param="prompt",
            )
        return list(prompt)

    def _chat_prompt(self, body: ChatBody) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise UnsupportedError(
                f"model {self._model_name!r} has no chat template; use /v1/completions"
            )
        for message in body.messages:
            message.refuse_unsupported()
        messages = [{"role": m.role, "content": m.text()} for m in body.messages]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise RequestError(
                f"the chat template refuses these messages: {error}", param="messages"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _max_tokens(self, body: GenerateBody, prompt_tokens: int) -> int:
        context = self._engine.facts.context_tokens
        room = context - prompt_tokens
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {prompt_tokens} tokens, the context holds {context} with the "
                "answer; shorten the prompt",
                param="messages" if isinstance(body, ChatBody) else "prompt",
            )
        if isinstance(body, ChatBody):
            return body.max_completion_tokens or body.max_tokens or room
        return body.max_tokens or min(_COMPLETION_TOKENS, room)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
