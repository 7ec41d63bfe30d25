"""The text of one choice as it is generated: stops, tool calls, log-probabilities."""

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from serving.answer_parts import Piece
from serving.detokenizer import StreamingText
from serving.engine.sequence import GenerationOutput
from serving.openai_api import GenerateBody
from serving.tool_parsers import CallDelta, ToolCallParser


class ChoiceText:
    """Turns the engine's outputs of one choice into pieces."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        body: GenerateBody,
        index: int,
        parser: ToolCallParser | None,
        *,
        shown: Mapping[int, str],
    ) -> None:
        """Answer choice `index` of `body`.

        Args:
            tokenizer: The model's.
            body: Says what stops the text.
            index: Of the choice.
            parser: Takes tool calls out of the text; None leaves it whole.
            shown: Special tokens that are text all the same.
        """
        self._text = StreamingText(
            tokenizer.backend_tokenizer,
            body.stops(),
            includes_stop=body.include_stop_str_in_output,
            shown=shown,
        )
        self._index = index
        self._parser = parser

    def take(self, output: GenerationOutput) -> Piece:
        """Return what an output adds; the piece that ends the choice has its reason."""
        text = self._text
        piece = Piece(self._index)
        released = []
        for token in output.tokens:
            released.append(text.push(token))
            piece.num_tokens += 1
            if text.is_stopped:
                break
        piece.tokens = list(
            zip(
                output.tokens[: piece.num_tokens], output.logprobs[: piece.num_tokens], strict=False
            )
        )
        if text.is_stopped:
            piece.finish_reason = "stop"
        elif output.finish_reason is not None:
            piece.finish_reason = output.finish_reason
            released.append(text.finish())
        self._split("".join(released), piece)
        return piece

    def _split(self, text: str, piece: Piece) -> None:
        """Put new text into the piece, as content and calls."""
        if self._parser is None:
            piece.text = text
            return
        parts = self._parser.push(text)
        if piece.finish_reason is not None:
            parts += self._parser.finish()
        piece.text = "".join(part for part in parts if isinstance(part, str))
        piece.calls = [part for part in parts if isinstance(part, CallDelta)]
        if piece.finish_reason == "stop" and self._parser.num_calls:
            piece.finish_reason = "tool_calls"
