"""`POST /v1/chat/completions` and `/v1/completions`: the data path."""

import time
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from planner.threads import in_thread
from router.call import LARGE_BODY_BYTES, Call, read_call, read_large_call
from router.client_watch import cancelled_when_client_leaves
from router.error_answers import status_of
from router.errors import ClientGoneError, RouterError, UnknownModelError
from router.exchange import (
    headers_for_replica,
    read_body,
    request_id,
    say_farewell,
    target,
)
from router.governance.admission import Admission
from router.governance.governance import Governance
from router.governance.tenant import Tenant
from router.metrics import RouterMetrics
from router.minions.virtual_model import VirtualModels
from router.model_choice import Embedding, ModelChoice, ModelPlan
from router.prompt_store import PromptStore
from router.relay import Relay
from router.replica_choice import ReplicaChoice
from router.router import Router
from router.traffic_log import RequestRecord, TrafficLog


class Completions:
    """An ASGI application that passes a request to a replica and writes its traffic line."""

    def __init__(
        self,
        router: Router,
        traffic_log: TrafficLog,
        metrics: RouterMetrics,
        choice: ReplicaChoice,
        virtual: VirtualModels,
        governance: Governance,
        *,
        prompts: PromptStore | None = None,
        max_body_bytes: int,
        model_choice: ModelChoice | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._router = router
        self._traffic_log = traffic_log
        self._metrics = metrics
        self._choice = choice
        self._virtual = virtual
        self._governance = governance
        self._prompts = prompts
        self._max_body_bytes = max_body_bytes
        self._model_choice = model_choice
        self._monotonic = monotonic
        self._wall = wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request and log it, however it ends."""
        record = RequestRecord(
            arrival_unix_seconds=self._wall(),
            arrived_at=self._monotonic(),
            request_id=request_id(scope),
        )
        relay = Relay(send, record, monotonic=self._monotonic)
        admission: Admission | None = None
        try:
            tenant = self._governance.identify(scope["headers"])
            record.tenant = tenant.name
            call = await self._read(scope, receive)
            embedding = None
            if self._model_choice is not None and self._model_choice.wants_embedding(call):
                async with cancelled_when_client_leaves(scope):
                    embedding = await self._model_choice.embedding(call)
            plan = self._plan(call, scope, tenant, record, embedding)
            call = plan.call
            admission = self._governance.admit(tenant, call.query)
            relay.headers.extend(admission.headers)
            if self._prompts is not None:
                self._prompts.keep(record, call.query)
            try:
                await self._answer(plan, tenant, scope, send, relay, record)
            except UnknownModelError as error:
                raise error.naming_only(tenant.allows) from None
        except ClientGoneError as error:
            record.status = status_of(error)
        except RouterError as error:
            record.status = status_of(error)
            await say_farewell(error, relay.fail)
        finally:
            if admission is not None:
                self._governance.settle(admission, record)
            self._metrics.ended(record.model, record.status)
            if not record.has_legs:
                self._traffic_log.write(record.line(ended_at=self._monotonic()))

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        body = await read_body(scope, receive, max_body_bytes=self._max_body_bytes)
        path, headers = target(scope), headers_for_replica(scope)
        if len(body) < LARGE_BODY_BYTES:
            return read_call(body, target=path, headers=headers)
        return await in_thread(read_large_call, body, target=path, headers=headers)

    async def _answer(
        self,
        plan: ModelPlan,
        tenant: Tenant,
        scope: Scope,
        send: Send,
        relay: Relay,
        record: RequestRecord,
    ) -> None:
        call = plan.call
        if self._virtual.takes(call.query.model):
            await self._virtual.answer(call, tenant, record, scope, send)
            return
        names = plan.models or self._router.models_for(call.query.model)
        models = [name for name in names if tenant.allows(name)]
        async with cancelled_when_client_leaves(scope):
            with await self._router.route(call, record, models=models) as answer:
                relay.headers.extend(plan.headers(answer.model))
                try:
                    await relay.pass_on(answer.reply, withhold_usage=call.withholds_usage)
                finally:
                    self._choice.learn(call.query.of_model(answer.model), record)

    def _plan(
        self,
        call: Call,
        scope: Scope,
        tenant: Tenant,
        record: RequestRecord,
        embedding: Embedding | None,
    ) -> ModelPlan:
        if self._model_choice is None:
            return ModelPlan(call)
        plan = self._model_choice.plan(
            call,
            scope["headers"],
            request_id=record.request_id,
            arrival_unix_seconds=record.arrival_unix_seconds,
            tenant=tenant,
            embedding=embedding,
        )
        record.choice = plan.record()
        return plan
