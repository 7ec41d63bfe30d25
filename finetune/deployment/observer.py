"""Who watches a deployed job: the log, since each side shows only its own part."""

import logging
from collections.abc import Sequence

from finetune.history import RoundLine
from finetune.progress import round_text
from finetune.run_plots import RunPlots

logger = logging.getLogger(__name__)


class LogObserver:
    """Logs phases and rounds, and local steps at DEBUG; see `job.Observer`."""

    def __init__(self, plots: RunPlots | None = None) -> None:
        """Keep the plots that are drawn anew after a round; a client has none."""
        self._plots = plots

    def phase(self, text: str) -> None:
        """Log what goes on now."""
        logger.info("%s", text)

    def step(self, round_number: int, loss: float) -> None:
        """Log a local step."""
        logger.debug("step round=%d loss=%.4f", round_number, loss)

    def round_done(self, history: Sequence[RoundLine], *, num_rounds: int) -> None:
        """Log where the job stands."""
        logger.info("%s", round_text(history, num_rounds=num_rounds))
        if self._plots is not None:
            self._plots.after_round()
