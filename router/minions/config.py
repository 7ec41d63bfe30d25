"""The `minions:` block: which pairs are offered, and every limit of the protocols."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel

Tokens = Annotated[int, Field(ge=16, le=10_000_000)]


class MinionsPair(StrictModel):
    """Two models of the router: one reads, the other directs."""

    local: Annotated[str, Field(min_length=1)]
    """Reads the documents; everything in them goes to its replicas."""
    remote: Annotated[str, Field(min_length=1)]
    """Sees the question and what the local model answered and quoted, never the documents."""


class ShieldConfig(StrictModel):
    """What is replaced by placeholders before a text goes to the remote model.

    A filter on the one crossing, not a proof: names, addresses and whatever else these expressions
    do not describe still leave. Placeholders in the remote's replies are turned back.
    """

    emails: bool = False
    """E-mail addresses."""
    phones: bool = False
    """Telephone numbers: 8 to 15 digits with the usual separators; long figures may look alike."""
    ibans: bool = False
    """International bank account numbers whose check digits are right."""


class MinionsConfig(StrictModel):
    """The virtual models `minions/LOCAL+REMOTE` and `minion/LOCAL+REMOTE`."""

    pairs: tuple[MinionsPair, ...] | None = None
    """The pairs that are offered, and listed under `/v1/models`. Without it any two models of the
    router go together and none is listed; an empty list offers none."""
    max_rounds: Annotated[int, Field(ge=1, le=50)] = 5
    """Rounds of one answer; the last one must end in an answer. Upstream's default."""
    max_tasks: Annotated[int, Field(ge=1, le=100)] = 8
    """Tasks of one round."""
    max_jobs: Annotated[int, Field(ge=1, le=100_000)] = 2048
    """Jobs (a task on a chunk) of one answer, over all rounds."""
    max_concurrent_jobs: Annotated[int, Field(ge=1, le=1024)] = 16
    """Jobs of one answer that run at once."""
    remote_tokens: Tokens = 32_000
    """Prompt and completion tokens of the remote model for one answer. Prompts are counted by the
    remote's own reports of earlier ones, so one call's error of estimate may go beyond."""
    wall_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """For one answer, all of it."""
    closing_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Of these, kept for the last call, which answers from what was found."""
    chunk_tokens: Tokens = 1000
    """Longest chunk, in the local model's tokens as estimated from bytes."""
    chat_document_tokens: Tokens = 100_000
    """Longest document of `minion/`, whose local model has all of it in one prompt."""
    advises: bool = True
    """Whether the remote first says what to look for."""
    plan_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Task lists the remote may write in one round until one is valid."""
    repair_attempts: Annotated[int, Field(ge=0, le=3)] = 1
    """How often a job whose answer is no JSON is asked again before it counts as abstained."""
    plan_answer_tokens: Tokens = 1024
    """Longest task list, advice or message of the remote."""
    job_answer_tokens: Tokens = 400
    """Longest answer of a job; what is cut off there counts as abstained."""
    final_answer_tokens: Tokens = 2048
    """Longest synthesis; a client's `max_tokens` may lower it."""
    findings_tokens: Tokens = 8000
    """Most tokens of findings in one prompt of the remote."""
    document_part_bytes: Annotated[int, Field(ge=1)] = 2000
    """From here on a text part of a message is a document."""
    json_mode: Literal["json_schema", "json_object", "none"] = "json_schema"
    """The `response_format` asked of both models; `none` where a server has neither."""
    text_characters: Annotated[int, Field(ge=10)] | None = None
    """Longest text in a model's JSON, held by the schema (`maxLength`, and `maxItems` of tasks): for
    small models that begin a text and do not end it. Without it the schemas bound nothing."""
    shield: ShieldConfig = ShieldConfig()
    """What is hidden from the remote model; nothing by default."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.closing_seconds >= self.wall_seconds:
            raise ValueError(
                f"closing_seconds: {self.closing_seconds:g} is not below wall_seconds "
                f"({self.wall_seconds:g}); lower it"
            )
        least = self.plan_answer_tokens + self.final_answer_tokens
        if self.remote_tokens < least:
            raise ValueError(
                f"remote_tokens: {self.remote_tokens} is below plan_answer_tokens + "
                f"final_answer_tokens ({least}); raise it"
            )
        named = [(pair.local, pair.remote) for pair in self.pairs or ()]
        for place, pair in enumerate(named):
            if pair in named[:place]:
                raise ValueError(f"pairs.{place}: {'+'.join(pair)!r} appears twice; remove one")
        return self
