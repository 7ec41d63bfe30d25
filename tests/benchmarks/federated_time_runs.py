"""Runs under the virtual clock as curves of held-out losses over virtual time; each is kept on disk."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from benchmarks.federated_time_clients import Federation, machines

from finetune.scheduling.decisions import Aggregation
from finetune.scheduling.documents import SchedulerSettings, make_scheduler
from finetune.simulated_training import RealTraining
from finetune.strategies.fedstale import StaleMemory, mix
from finetune.updates import Tensors
from finetune.virtual_clock import Merge, VirtualClock, weighted_sum


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses over virtual time.

    Attributes:
        seconds: Increasing, from 0.
        losses: At each of these times, one loss a client, nats a token.
        facts: What else the run tells.
    """

    seconds: list[float]
    losses: list[list[float]]
    facts: dict[str, Any]

    @property
    def means(self) -> list[float]:
        """Mean loss over the clients, at each time."""
        return [float(np.mean(row)) for row in self.losses]

    @property
    def fall(self) -> float:
        """How far the mean loss fell over the whole run."""
        return self.means[0] - self.means[-1]

    @property
    def slowest(self) -> int:
        """Which client has the slowest machine."""
        times: list[float] = self.facts["seconds_per_step"]
        return times.index(max(times))

    @property
    def slowest_fall(self) -> float:
        """How far the slowest client's loss fell over the whole run."""
        return self.losses[0][self.slowest] - self.losses[-1][self.slowest]

    def seconds_to(self, loss: float) -> float | None:
        """Return when the mean loss first was as low, straight lines between the points.

        None if it never was.
        """
        means = self.means
        for later, (before, after) in enumerate(pairwise(means), start=1):
            if after <= loss < before:
                share = (before - loss) / (before - after)
                start, end = self.seconds[later - 1], self.seconds[later]
                return start + share * (end - start)
        return None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the curve that `dataclasses.asdict` wrote."""
        return cls(content["seconds"], content["losses"], content["facts"])


class Runs:
    """Finished runs by what was asked for, so that an interrupted benchmark goes on where it was."""

    def __init__(self, folder: Path, *, num_expected: int = 0) -> None:
        """Keep the runs in a folder, one file each.

        Args:
            folder: Made on the first run.
            num_expected: Runs that will be asked for at the most, to say how long it will take.
        """
        self._folder = folder
        self._num_expected = num_expected
        self._num_asked = 0
        self._made_seconds: list[float] = []

    def get(self, question: Mapping[str, Any], make: Callable[[], Curve]) -> Curve:
        """Return the run that answers a question, making it unless it is there."""
        self._num_asked += 1
        text = json.dumps(question, sort_keys=True)
        path = self._folder / f"{sha256(text.encode()).hexdigest()[:16]}.json"
        if path.exists():
            return Curve.from_json(json.loads(path.read_text())["curve"])
        began = time.monotonic()
        curve = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"question": question, "curve": asdict(curve)}))
        partial.replace(path)
        self._made_seconds.append(time.monotonic() - began)
        self._tell()
        return curve

    def _tell(self) -> None:
        mean = sum(self._made_seconds) / len(self._made_seconds)
        left = max(self._num_expected - self._num_asked, 0) * mean
        print(
            f"run {self._num_asked} of at most {self._num_expected}: {self._made_seconds[-1]:.0f} s; "
            f"about {left / 60:.0f} minutes left",
            flush=True,
        )


class Watch:
    """Judges the adapter at set times, as it is just before the event that passes them."""

    def __init__(
        self, judge: Callable[[Tensors], list[float]], start: Tensors, times: Sequence[float]
    ) -> None:
        """Judge the first adapter at 0.

        Args:
            judge: Returns one loss a client.
            start: The first adapter.
            times: Increasing, above 0.
        """
        self.seconds = [0.0]
        self.losses = [judge(start)]
        self._judge = judge
        self._times = list(times)
        self._current = self._judged = start

    def see(self, now_seconds: float, tensors: Tensors) -> None:
        """Take note of the adapter after an event."""
        self._judge_until(now_seconds)
        self._current = tensors

    def end(self) -> None:
        """Judge the last adapter at the times that are left."""
        self._judge_until(float("inf"))

    def _judge_until(self, seconds: float) -> None:
        while self._times and self._times[0] <= seconds:
            is_new = self._current is not self._judged
            self.losses.append(self._judge(self._current) if is_new else self.losses[-1])
            self._judged = self._current
            self.seconds.append(self._times.pop(0))


class StaleMerge:
    """FedStale's next version: the round's changes mixed with the last ones of absent clients."""

    def __init__(self, num_examples: Mapping[str, int], *, beta: float) -> None:
        """Remember nothing yet."""
        self._num_examples = num_examples
        self._beta = beta
        self._memory = StaleMemory()

    def __call__(
        self, tensors: Tensors, aggregation: Aggregation, changes: Sequence[Tensors]
    ) -> Tensors:
        """Return the tensors plus the mixed mean change."""
        named = zip(aggregation.contributions, changes, strict=True)
        fresh = {one.client: change for one, change in named}
        mean = mix(fresh, self._memory.changes, self._num_examples, beta=self._beta)
        self._memory.remember(fresh)
        return {name: (one + mean[name]).astype(one.dtype) for name, one in tensors.items()}


def train_curve(
    federation: Federation,
    settings: SchedulerSettings,
    *,
    seed: int,
    until_seconds: float,
    num_points: int,
    stale_beta: float | None = None,
    stop_at_loss: float | None = None,
) -> Curve:
    """Train one adapter and return its curve.

    Args:
        federation: Who trains.
        settings: Of the scheduler.
        seed: Of the machines.
        until_seconds: Virtual time of the run.
        num_points: Times at which the adapter is judged, evenly spaced after 0.
        stale_beta: FedStale's belief in absent clients; None merges as the scheduler says.
        stop_at_loss: Mean loss that ends the run.
    """
    began = time.process_time()
    merge: Merge = weighted_sum
    if stale_beta is not None:
        merge = StaleMerge(federation.num_examples, beta=stale_beta)
    fleet = machines(federation.num_examples, seed=seed)
    clock = VirtualClock(
        make_scheduler(settings),
        RealTraining(federation.trainers),
        fleet,
        {"": federation.start},
        merge=merge,
    )
    times = np.linspace(0, until_seconds, num_points + 1)[1:].tolist()
    watch = Watch(federation.losses, federation.start, times)

    def on_event(now: VirtualClock) -> bool:
        watch.see(now.now_seconds, now.adapters[""])
        return stop_at_loss is None or float(np.mean(watch.losses[-1])) > stop_at_loss

    clock.run(until_seconds=until_seconds, on_event=on_event)
    if stop_at_loss is None or float(np.mean(watch.losses[-1])) > stop_at_loss:
        watch.end()
    facts = {
        "num_events": clock.num_events,
        "num_aggregations": clock.num_aggregations,
        "num_discarded": clock.discards.total(),
        "bytes": clock.download_bytes + clock.upload_bytes,
        "seconds_per_step": [one.seconds_per_step for one in fleet],
        "processor_seconds": time.process_time() - began,
    }
    return Curve(watch.seconds, watch.losses, facts)
