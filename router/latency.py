"""How fast a replica answered lately: moving averages that are forgotten when they grow old.

Averages weigh the newest answer 0.3 (the value aisix uses). A replica that has not answered for a
minute counts as unmeasured, so that one bad minute does not keep it without requests for good. The
time a token is taken from answers of at least 16: shorter ones measure the network.
"""

NEWEST_FRACTION = 0.3
FORGOTTEN_SECONDS = 60.0
LEAST_TOKENS = 16


class Latency:
    """Time to the first token and time a token of one replica; seconds throughout."""

    __slots__ = ("_measured_at", "tpot_seconds", "ttft_seconds")

    def __init__(self) -> None:
        self.ttft_seconds: float | None = None
        """From sending the request to the first byte of its stream; None before any stream."""
        self.tpot_seconds: float | None = None
        """Between tokens of a stream; whole answers count as all of their time by their tokens."""
        self._measured_at = float("-inf")

    def note_stream(
        self, ttft_seconds: float, tpot_seconds: float | None, output_tokens: int, *, now: float
    ) -> None:
        """Take a finished stream into the averages; without a token rate, its beginning alone."""
        self._renew(now)
        self.ttft_seconds = _averaged(self.ttft_seconds, ttft_seconds)
        if tpot_seconds is not None and output_tokens >= LEAST_TOKENS:
            self.tpot_seconds = _averaged(self.tpot_seconds, tpot_seconds)

    def note_whole(self, duration_seconds: float, output_tokens: int, *, now: float) -> None:
        """Take an answer that was not streamed into the averages."""
        if output_tokens >= LEAST_TOKENS:
            self._renew(now)
            self.tpot_seconds = _averaged(self.tpot_seconds, duration_seconds / output_tokens)

    def expected_seconds(self, output_tokens: int, *, now: float) -> float | None:
        """Return what an answer of that many tokens would take; None if nothing was measured lately."""
        if now - self._measured_at > FORGOTTEN_SECONDS:
            return None
        return (self.ttft_seconds or 0.0) + (self.tpot_seconds or 0.0) * output_tokens

    def _renew(self, now: float) -> None:
        """Forget what is too old to be averaged with anything new."""
        if now - self._measured_at > FORGOTTEN_SECONDS:
            self.ttft_seconds = self.tpot_seconds = None
        self._measured_at = now


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else old + NEWEST_FRACTION * (new - old)
