"""A clock that a test moves."""


class Clock:
    """Monotonic seconds; stands still unless `now` is changed."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
