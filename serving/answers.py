"""From a parsed body to an answer: tokenise, generate, detokenise."""

import asyncio
import functools
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from serving.answer_format import AnswerFormat, ChatFormat, CompletionFormat
from serving.answer_parts import Piece, Usage, gathered
from serving.choice_text import ChoiceText
from serving.embeddings_api import (
    MOST_INPUTS,
    EmbeddingsAnswer,
    EmbeddingsBody,
    EmbeddingUsage,
    embedding,
)
from serving.engine.grammar import Grammar, GrammarKind
from serving.engine.guidance import GrammarCompiler
from serving.engine.reading import ReadRequest
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
from serving.long_texts import LongTexts
from serving.merged import merged
from serving.openai_api import MOST_CHOICES, ChatBody, CompletionBody, GenerateBody
from serving.prompts import Prompt, PromptReader
from serving.request_times import RequestTimes
from serving.responses_api import ResponsesChat
from serving.responses_format import ResponsesFormat
from serving.time_limit import time_limit
from serving.token_texts import ScoredToken, TokenTexts
from serving.tokenize_api import (
    DetokenizeAnswer,
    DetokenizeBody,
    TokenizeAnswer,
    TokenizeBody,
    detokenize,
    tokenize,
)
from serving.tool_parsers import REQUIRED, ToolCallParser, find_syntax

logger = logging.getLogger(__name__)

_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request: what the engine is asked for, choice by choice."""

    request_id: str
    prompts: list[Prompt]
    requests: list[GenerationRequest | None]
    """Of each prompt's choices, prompt after prompt; None where only the prompt is scored."""
    arrival_seconds: float
    """When it came, by the clock of `RequestTimes`."""

    def prompt_of(self, index: int) -> Prompt:
        """Return the prompt of a choice."""
        return self.prompts[index * len(self.prompts) // len(self.requests)]


class AnswerService:
    """Answers completions and chats with one model and its adapters."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        vocabulary_size: int | None = None,
        request_timeout_seconds: float | None = None,
    ) -> None:
        """Serve an engine as `model_name`.

        Args:
            engine: Asked for what is generated.
            tokenizer: The model's.
            model_name: What clients ask for.
            vocabulary_size: Ids a prompt may hold; None is what both tokenizer and model have.
            request_timeout_seconds: Longest that the texts of one request may be read; None sets
                no limit. What is generated has the engine's own limit.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._request_timeout_seconds = request_timeout_seconds
        self._tokenizer_fault: str | None = None
        self.times = RequestTimes(model_name)
        self.prompts = PromptReader(
            tokenizer,
            model_name=model_name,
            # An embedding may be padded beyond the tokenizer's ids, or a tokenizer hold unused ones.
            num_ids=lambda: vocabulary_size or min(len(tokenizer), engine.facts.vocabulary_size),
        )
        self._texts = TokenTexts(tokenizer)
        self._long_texts = LongTexts()
        self._tool_syntax = find_syntax(self.prompts.template())

    @property
    def model_name(self) -> str:
        """Name of the base model."""
        return self._model_name

    def model_names(self) -> list[str]:
        """Return the base model's name, then the adapters'."""
        return [self._model_name, *self._engine.adapter_names]

    def adapter_of(self, model: str) -> str | None:
        """Return the adapter that answers as `model`; None for the base model.

        Raises:
            NotFoundError: If there is no such model.
        """
        if model not in self.model_names():
            raise NotFoundError(
                f"model {model[:80]!r} does not exist; this endpoint serves {self.model_names()}",
                param="model",
            )
        return None if model == self._model_name else model

    async def prepare(self, body: GenerateBody, request_id: str) -> Prepared:
        """Check a body and turn it into the engine's requests; what takes long does so in threads.

        Raises:
            RequestError: If it cannot be served as asked.
        """
        arrival_seconds = self.times.now()
        body.refuse_unsupported()
        adapter_name = self.adapter_of(body.model)
        prompts = await self._long_texts.run(body, lambda: self._prompts(body))
        num_choices = len(prompts) * body.num_choices
        if num_choices > MOST_CHOICES:
            raise RequestError(
                f"{len(prompts)} prompts of n {body.num_choices} are {num_choices} choices, above "
                f"{MOST_CHOICES}; send fewer",
                param="prompt",
            )
        grammar = await self._grammar(body)
        seed = secrets.randbits(62) if body.seed is None else body.seed
        requests = [
            None
            if body.max_tokens == 0
            else GenerationRequest(
                # Clients choose their ids and may repeat one; the engine's are our own.
                request_id=f"{request_id}-{secrets.token_hex(8)}",
                prompt=prompt.ids,
                params=body.sampling(self._max_tokens(body, len(prompt.ids))),
                seed=(seed + choice) % 2**63,
                adapter_name=adapter_name,
                grammar=grammar,
            )
            for prompt in prompts
            for choice in range(body.num_choices)
        ]
        return Prepared(request_id, prompts, requests, arrival_seconds)

    async def answer(self, body: GenerateBody, prepared: Prepared) -> dict[str, Any]:
        """Return the whole answer.

        Raises:
            ServingError: If the engine refuses or fails.
        """
        usage = self._usage(prepared)
        async with aclosing(self._pieces(body, prepared, usage)) as generated:
            pieces = [piece async for piece in generated]
        return self._format(body).whole(gathered(pieces, len(prepared.requests)), usage)

    async def stream(self, body: GenerateBody, prepared: Prepared) -> AsyncGenerator[str]:
        """Yield the answer as server-sent events; an error after the start is an event too.

        Raises:
            ServingError: If the engine refuses, before the first event.
        """
        form = self._format(body)
        usage = self._usage(prepared)
        is_started = False
        try:
            async with aclosing(self._pieces(body, prepared, usage)) as pieces:
                async for piece in pieces:
                    opening = [] if is_started else form.start()
                    is_started = True
                    for event in (*opening, *form.piece(piece)):
                        yield event
        except ServingError as error:
            if not is_started:
                raise
            logger.warning("stream failed request_id=%s error=%s", prepared.request_id, error)
            for event in form.failed(error_body(error)[1]):
                yield event
            return
        for event in form.end(usage):
            yield event

    async def tokenize(self, body: TokenizeBody) -> TokenizeAnswer:
        """Return the token ids of a prompt or a conversation: `tokenize_api.tokenize`."""
        self.adapter_of(body.model or self._model_name)
        context = self._engine.facts.context_tokens
        work = functools.partial(tokenize, body, self.prompts, context_tokens=context)
        return await self._long_texts.run(body, work)

    async def detokenize(self, body: DetokenizeBody) -> DetokenizeAnswer:
        """Return the text of token ids: `tokenize_api.detokenize`."""
        self.adapter_of(body.model or self._model_name)
        return await self._long_texts.run(body, lambda: detokenize(body, self.prompts))

    async def embed(self, body: EmbeddingsBody) -> EmbeddingsAnswer:
        """Return each input's pooled hidden state: `embeddings_api`.

        Raises:
            ServingError: If an input cannot be read, or the engine has no room for it.
        """
        body.refuse_unsupported()
        adapter_name = self.adapter_of(body.model)
        texts = await self._long_texts.run(body, lambda: self.prompts.read_all(body.input, "input"))
        if len(texts) > MOST_INPUTS:
            raise RequestError(
                f"input holds {len(texts)} texts, above {MOST_INPUTS}; send fewer", param="input"
            )
        data = []
        async with time_limit(self._request_timeout_seconds):
            for index, text in enumerate(texts):
                reading = await self._engine.read(ReadRequest(text.ids, adapter_name))
                data.append(embedding(index, reading.pooled, body.encoding_format))
        count = sum(len(text.ids) for text in texts)
        usage = EmbeddingUsage(prompt_tokens=count, total_tokens=count)
        return EmbeddingsAnswer(data=data, model=body.model, usage=usage)

    async def _pieces(
        self, body: GenerateBody, prepared: Prepared, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """Yield the pieces of all choices as they come, and keep `usage`."""
        choices = [self._choice(body, prepared, i) for i in range(len(prepared.requests))]
        try:
            async with aclosing(merged(choices)) as pieces:
                async for piece in pieces:
                    usage.completion_tokens += piece.num_tokens
                    yield piece
        finally:
            logger.info(
                "request ended request_id=%s model=%s prompt_tokens=%d completion_tokens=%d seconds=%.3f",
                prepared.request_id,
                body.model,
                usage.prompt_tokens,
                usage.completion_tokens,
                self.times.now() - prepared.arrival_seconds,
            )

    async def _choice(
        self, body: GenerateBody, prepared: Prepared, index: int
    ) -> AsyncGenerator[Piece]:
        """Yield the pieces of one choice, its prompt before the first where it is repeated."""
        echo = await self._echo(body, prepared, index)
        request = prepared.requests[index]
        if request is None:
            assert echo is not None, "checked with the body"
            echo.finish_reason = "length"
            yield echo
            return
        text = self._choice_text(body, index)
        with self.times.watch(prepared.arrival_seconds) as watch:
            async with aclosing(self._engine.generate(request)) as outputs:
                async for output in outputs:
                    piece = text.take(output)
                    watch.take(piece.num_tokens, piece.finish_reason)
                    if echo is not None:
                        piece.text = echo.text + piece.text
                        piece.tokens = echo.tokens + piece.tokens
                        echo = None
                    yield piece
                    if piece.finish_reason is not None:
                        return

    async def _echo(self, body: GenerateBody, prepared: Prepared, index: int) -> Piece | None:
        """Return a choice's prompt as its first piece, scored where that is asked for."""
        if not isinstance(body, CompletionBody) or not body.echo:
            return None
        prompt = prepared.prompt_of(index)
        tokens: list[ScoredToken] = []
        if body.num_logprobs is not None:
            read = ReadRequest(prompt.ids, self.adapter_of(body.model), body.num_logprobs)
            scores = (await self._engine.read(read)).logprobs
            tokens = list(zip(prompt.ids, (None, *scores), strict=True))
        return Piece(index, self.prompts.text_of(prompt), tokens=tokens)

    def _choice_text(self, body: GenerateBody, index: int) -> ChoiceText:
        parser = None
        if isinstance(body, ChatBody) and body.wanted_tools():
            syntax = REQUIRED if body.must_call else self._tool_syntax
            parser = ToolCallParser(syntax, most_calls=body.most_calls)
        return ChoiceText(self._tokenizer, body, index, parser, shown=self._shown(parser))

    def _shown(self, parser: ToolCallParser | None) -> dict[int, str]:
        """Return the special tokens that calls are written with."""
        if parser is None:
            return {}
        markers = self._tool_syntax.markers
        added = self._tokenizer.added_tokens_decoder
        return {i: str(token.content) for i, token in added.items() if token.content in markers}

    def _format(self, body: GenerateBody) -> AnswerFormat:
        if isinstance(body, ResponsesChat):
            return ResponsesFormat(body)
        form = ChatFormat if isinstance(body, ChatBody) else CompletionFormat
        return form(body, self._texts)

    @staticmethod
    def _usage(prepared: Prepared) -> Usage:
        return Usage(sum(len(prompt.ids) for prompt in prepared.prompts))

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

    def _prompts(self, body: GenerateBody) -> list[Prompt]:
        if isinstance(body, ChatBody):
            return [self.prompts.chat(body.messages, body.options())]
        assert isinstance(body, CompletionBody), "bodies are completions or chats"
        return self.prompts.read_all(body.prompt)

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
