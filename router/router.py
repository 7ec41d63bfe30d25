"""From a request to a replica's answer."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from router.attempt import BUSY_STATUS, Answer, Attempts
from router.base import Query
from router.call import Call, with_model
from router.errors import (
    NoHealthyReplicaError,
    NoRoomError,
    ReplicaError,
    ReplicaFailedError,
    ReplicasBusyError,
    UnknownModelError,
)
from router.faults import Faults
from router.faults_config import HedgingConfig, RetryConfig
from router.fleet import Fleet
from router.health import HealthMonitor
from router.hedging import hedge_seconds, race
from router.replica_choice import Choice, ReplicaChoice
from router.retry_after import retry_after_seconds
from router.traffic_log import RequestRecord
from router.trial import Trial

POLL_SECONDS = 0.05
CHECK_SECONDS = 0.25
"""Between two checks of the replicas that requests wait for; their own pace may be slower."""
"""How often a request that waits for a replica looks again."""

logger = logging.getLogger(__name__)


class Router:
    """Chooses a replica for each request, and another one if that fails."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        choice: ReplicaChoice,
        attempts: Attempts,
        faults: Faults,
        *,
        retry: RetryConfig,
        hedging: HedgingConfig | None = None,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        draw: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take the parts; `fallbacks` names the models that may answer in another one's place."""
        self._fleet = fleet
        self._monitor = monitor
        self._choice = choice
        self._attempts = attempts
        self._guards = faults.guards
        self._budget = faults.budget
        self._fault_metrics = faults.metrics
        self._draw = draw
        self._monotonic = monotonic
        self._sleep = sleep
        self._num_waiting = 0
        self._next_check_at = float("-inf")
        self._retry = retry
        self._hedging = hedging
        self._fallbacks = fallbacks or {}

    def models_for(self, model: str) -> tuple[str, ...]:
        """Return the models that may answer a request for `model`, itself first."""
        return model, *self._fallbacks.get(model, ())

    async def route(
        self, call: Call, record: RequestRecord, *, models: Sequence[str] = ()
    ) -> Answer:
        """Return the first answer a replica gives; the caller uses it as a context, which ends it.

        What fails before its first byte goes to another replica: within the request's time, its
        attempts and the budget of all retries. A replica that fails is suspect until a check passes;
        one that is busy (429) is left alone for a while. A 500 goes to others, which tell whose
        fault it was: the request's, if all say so. Where a model's replicas cannot, the next model's are
        asked; then those in doubt; where none can, the request waits a little for one to come back.

        Args:
            call: The request.
            record: Gets the model, the replica and the number of retries.
            models: Who may answer, in order; by default the model asked for and its fallbacks.

        Raises:
            UnknownModelError: If no replica serves the first model, after asking them all again.
            NoHealthyReplicaError: If none of those that serve the models can be asked.
            NoRoomError: If those that are healthy are all full.
            ReplicasBusyError: If those that can be asked have said 429 not long ago.
            ReplicaError: If every replica tried failed; the last failure.
        """
        names = models or self.models_for(call.query.model)
        await self._check_model(names[0])
        record.model = names[0]
        self._budget.deposit()
        trial = Trial(record, self._monotonic(), self._retry.deadline_seconds)
        draw = self._draw()
        while True:
            answer = await self._ask(names, call, draw, trial)
            if answer is not None:
                return self._arrived(answer, names, trial)
            if not await self._wait(names, call, trial):
                return self._give_up(names, trial)

    async def _ask(
        self, names: Sequence[str], call: Call, draw: float, trial: Trial
    ) -> Answer | None:
        """Return the first useful answer of all models' replicas: of the calm ones before the others.

        In doubt are those that checks do not find down, but where requests have failed.
        """
        for in_doubt in (False, True):
            for name in names:
                leg = call if name == call.query.model else with_model(call, name)
                query = leg.query.drawn(draw)
                while (choice := self._pick(query, trial, in_doubt=in_doubt)) is not None:
                    answer = await self._attempt(choice, leg, query, trial)
                    if answer is not None:
                        return answer
        return None

    async def _check_model(self, model: str) -> None:
        if self._fleet.knows(model):
            return
        await self._monitor.refresh()
        if not self._fleet.knows(model):
            raise UnknownModelError(model, self._fleet.model_entries())

    def _pick(self, query: Query, trial: Trial, *, in_doubt: bool) -> Choice | None:
        """Return the replica to try next, or None if there is none or no further attempt may be.

        A first attempt is free, for it multiplies no load; each further one is a retry.
        """
        if not trial.may_try(self._monotonic(), max_attempts=self._retry.max_attempts):
            return None
        barred = self._guards.busy() if in_doubt else self._guards.barred()
        excluding = barred.union(trial.tried)
        if trial.num_attempts or in_doubt:
            if not self._has_candidates(query, excluding):
                return None
            if trial.num_attempts and not self._afford(trial):
                trial.is_out_of_budget = True
                return None
        choice = self._choice.choose(query, excluding)
        if not isinstance(choice, Choice):
            trial.emptied = choice
            return None
        if in_doubt:
            self._fault_metrics.resorted()
        elif self._guards.is_silent(choice.url):
            logger.warning("replica silent url=%s", choice.url)
            self._monitor.check_soon(choice.url)
            return self._pick(query, trial, in_doubt=False)
        return choice

    def _pick_hedge(self, query: Query, trial: Trial) -> Choice | None:
        """Return a calm replica for a second attempt beside the first, if one can be afforded."""
        excluding = self._guards.barred().union(trial.tried)
        if not self._has_candidates(query, excluding) or not self._afford(trial):
            return None
        choice = self._choice.choose(query, excluding)
        return choice if isinstance(choice, Choice) else None

    def _has_candidates(self, query: Query, excluding: Collection[str]) -> bool:
        demand = self._choice.demand(query)
        return bool(self._fleet.candidates(query.model, excluding=excluding, demand=demand))

    def _afford(self, trial: Trial) -> bool:
        """Return whether the budget of retries has one more; a refusal is counted and told."""
        # What a dead replica held is asked again free of charge: nobody works on it any more.
        if trial.reason == "left" or self._budget.withdraw():
            return True
        self._fault_metrics.refused("budget")
        logger.warning(
            "retry refused, the budget is used up request_id=%s", trial.record.request_id
        )
        return False

    async def _attempt(
        self, choice: Choice, call: Call, query: Query, trial: Trial
    ) -> Answer | None:
        """Return an answer that is useful, or None and note in the trial what came instead."""
        after_seconds = hedge_seconds(self._hedging, call)
        run = self._send(choice, call, trial)
        try:
            if after_seconds is None:
                answer = await run
            else:
                answer = await self._hedge(run, call, query, trial, after_seconds)
        except ReplicaError:
            return None
        if answer.is_useful:
            return answer
        if answer.reply.status == BUSY_STATUS:
            seconds = retry_after_seconds(answer.reply.headers)
            trial.note_busy(answer, seconds, self._monotonic())
        else:
            trial.note_internal_error(answer)
        return None

    async def _send(self, choice: Choice, call: Call, trial: Trial) -> Answer:
        """Make one attempt; whatever it is worth less than an answer is counted and told."""
        now, url = self._monotonic(), choice.url
        if trial.num_attempts:
            self._fault_metrics.retried(trial.reason)
        trial.begin(url, now)
        seconds = trial.ends_at - now
        try:
            if self._fleet.find(url) is None:
                raise ReplicaFailedError(url, "has left the fleet")
            lease = self._choice.lease(choice)
            answer = await self._attempts.send(
                lease, call, seconds=seconds, share=seconds / trial.deadline_seconds
            )
        except ReplicaError as error:
            trial.note_failure(error, self._monotonic())
            self._blamed(url, error.reason, error.problem, trial)
            raise
        if not answer.is_useful:
            answer.release()
        if answer.reply.status == BUSY_STATUS:
            seconds = retry_after_seconds(answer.reply.headers)
            self._guards.set_aside(url, seconds=min(seconds, self._retry.max_busy_seconds))
            self._fault_metrics.failed("busy")
        return answer

    async def _hedge(
        self,
        run: Coroutine[Any, Any, Answer],
        call: Call,
        query: Query,
        trial: Trial,
        after_seconds: float,
    ) -> Answer:
        chosen: Choice | None = None

        def second() -> Coroutine[Any, Any, Answer] | None:
            nonlocal chosen
            trial.reason = "hedge"
            chosen = self._pick_hedge(query, trial)
            return None if chosen is None else self._send(chosen, call, trial)

        result = "none"
        try:
            answer = await race(
                run,
                second,
                after_seconds=after_seconds,
                is_good=lambda each: each.is_useful,
                discard=Answer.close,
            )
            if answer.is_useful:
                is_second = chosen is not None and answer.url == chosen.url
                result = "second" if is_second else "first"
        finally:
            if chosen is not None:
                self._fault_metrics.hedged(result)
        return answer

    def _blamed(self, url: str, reason: str, problem: str, trial: Trial) -> None:
        """Count and log an attempt that failed by the replica's fault, and have that one checked."""
        self._fault_metrics.failed(reason)
        logger.warning(
            "attempt failed url=%s reason=%s problem=%s request_id=%s",
            url,
            reason,
            problem,
            trial.record.request_id,
        )
        self._monitor.check_soon(url)

    async def _wait(self, names: Sequence[str], call: Call, trial: Trial) -> bool:
        """Wait until a replica may be tried (again); return False if none may in time."""
        if not trial.may_try(self._monotonic(), max_attempts=self._retry.max_attempts):
            return False
        if trial.internal_errors:
            return False
        if trial.waits_until is None:
            is_busy = self._busy_seconds(names, trial) is not None or trial.emptied == "room"
            seconds = self._retry.busy_wait_seconds if is_busy else self._retry.wait_seconds
            trial.waits_until = min(self._monotonic() + seconds, trial.ends_at)
        if self._monotonic() >= trial.waits_until:
            return False
        if self._num_waiting >= self._retry.max_waiting:
            self._fault_metrics.refused("waiting_full")
            return False
        self._num_waiting += 1
        try:
            is_found = await self._look_until(trial.waits_until, names, call, trial)
        finally:
            self._num_waiting -= 1
        self._fault_metrics.waited("found" if is_found else "none")
        return is_found

    async def _look_until(
        self, until: float, names: Sequence[str], call: Call, trial: Trial
    ) -> bool:
        queries = [call.query.of_model(name) for name in names]
        while self._monotonic() < until:
            self._check_again(names)
            await self._sleep(POLL_SECONDS)
            trial.forgive(self._guards)
            excluding = self._guards.barred().union(trial.tried)
            if any(self._has_candidates(query, excluding) for query in queries):
                return True
        return False

    def _check_again(self, names: Sequence[str]) -> None:
        """Have the models' replicas checked, once a while for all requests that wait."""
        if self._monotonic() < self._next_check_at:
            return
        self._next_check_at = self._monotonic() + CHECK_SECONDS
        for replica in {each for name in names for each in self._fleet.serving(name)}:
            self._monitor.check_soon(replica.url)

    def _arrived(self, answer: Answer, names: Sequence[str], trial: Trial) -> Answer:
        record = trial.record
        record.replica, record.model = answer.url, answer.model
        record.attempted_at = trial.tried[answer.url]
        for url in trial.blame():
            self._blamed(url, "internal_error", "answered 500 and another replica did not", trial)
        if answer.model != names[0]:
            self._fault_metrics.fell_back(names[0], answer.model)
            logger.warning(
                "fallback model=%s to=%s request_id=%s", names[0], answer.model, record.request_id
            )
        return answer

    def _busy_seconds(self, names: Sequence[str], trial: Trial) -> float | None:
        """Return how long until a busy replica may be asked, or None if none of them is busy."""
        if trial.busy is not None:
            return trial.busy_seconds
        urls = [replica.url for name in names for replica in self._fleet.serving(name)]
        return self._guards.busy_seconds(urls)

    def _give_up(self, names: Sequence[str], trial: Trial) -> Answer:
        trial.acquit()
        if trial.internal_errors:
            return trial.internal_errors[0]
        if trial.busy is not None:
            return trial.busy
        busy_seconds = self._busy_seconds(names, trial)
        if busy_seconds is not None:
            raise ReplicasBusyError(names[0], retry_after_seconds=busy_seconds)
        if trial.failure is not None:
            raise trial.failure
        if trial.emptied == "room":
            raise NoRoomError(names[0])
        num_replicas = len(self._fleet.serving(names[0]))
        raise NoHealthyReplicaError(names[0], num_replicas=num_replicas)
