"""Who watches a deployed job: the log, since each side shows only its own part."""

import logging

logger = logging.getLogger(__name__)


class LogObserver:
    """Logs phases, and local steps at DEBUG; see `job.Observer`."""

    def phase(self, text: str) -> None:
        """Log what goes on now."""
        logger.info("%s", text)

    def step(self, round_number: int, loss: float) -> None:
        """Log a local step."""
        logger.debug("step round=%d loss=%.4f", round_number, loss)
