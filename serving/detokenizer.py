"""From token ids to text as it streams: no broken characters, no half of a stop string."""

from collections.abc import Mapping

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StreamingText:
    """The text of one answer, released piece by piece.

    Text that may be the start of a stop string is held back until it is certain; bytes of an
    incomplete character wait for the rest of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: list[str],
        *,
        includes_stop: bool = False,
        shown: Mapping[int, str] | None = None,
    ) -> None:
        """Decode with `tokenizer`, ending before the first of `stops`.

        Args:
            tokenizer: The model's.
            stops: What ends the text.
            includes_stop: End behind the stop string instead.
            shown: Special tokens that are text all the same.
        """
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = stops
        self._includes_stop = includes_stop
        self._shown = shown or {}
        self._held = ""
        self.is_stopped = False
        self.num_tokens = 0

    def push(self, token: int) -> str:
        """Take one more token and return the text that is now certain."""
        assert not self.is_stopped, "nothing follows a stop string"
        self.num_tokens += 1
        self._held += self._stream.step(self._tokenizer, token) or self._shown.get(token, "")
        found = min(
            ((at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None
        )
        if found is not None:
            self.is_stopped = True
            cut = found[0] + len(found[1]) * self._includes_stop
            released, self._held = self._held[:cut], ""
            return released
        keep = self._num_doubtful()
        released, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * bool(keep)
        return released

    def finish(self) -> str:
        """Return what was held back, once no more tokens come."""
        released, self._held = self._held, ""
        return released

    def _num_doubtful(self) -> int:
        """Return the length of the longest tail that could begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
