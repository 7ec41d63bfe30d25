"""`minions/LOCAL+REMOTE` and `minion/LOCAL+REMOTE` in `/v1/chat/completions`."""

import json
import logging
import uuid
from collections.abc import Callable, Sequence

from starlette.types import Scope, Send

from router.call import Call
from router.client_watch import cancelled_when_client_leaves
from router.config import ModelConfig
from router.error_answers import status_of
from router.errors import (
    ClientGoneError,
    ModelForbiddenError,
    ParameterError,
    RouterError,
    UnknownModelError,
)
from router.exchange import say_farewell, send_whole
from router.fleet import Fleet
from router.governance.tenant import Tenant
from router.minions.accounting import Ledger, Price, Side
from router.minions.answers import Answered
from router.minions.config import MinionsConfig
from router.minions.leg import TARGET, Leg, Services
from router.minions.metrics import MinionsMetrics
from router.minions.names import VirtualName, is_virtual, split_name
from router.minions.request import MinionsRequest, read_request
from router.minions.solving import Models, check_length, solve
from router.minions.stream import ProgressStream
from router.traffic_log import RequestRecord
from router.usage import Usage

logger = logging.getLogger(__name__)


class VirtualModels:
    """Answers requests to virtual models; both legs of each go through the router."""

    def __init__(
        self,
        config: MinionsConfig,
        models: Sequence[ModelConfig],
        fleet: Fleet,
        services: Services,
        metrics: MinionsMetrics,
    ) -> None:
        self._config = config
        self._facts = {model.name: model for model in models}
        self._fleet = fleet
        self._services = services
        self._metrics = metrics
        pairs = config.pairs
        self._pairs = None if pairs is None else {(pair.local, pair.remote) for pair in pairs}
        self._created_unix_seconds = int(services.wall())

    def takes(self, model: str) -> bool:
        """Return whether a request for `model` is one for a virtual model."""
        return is_virtual(model) and not self._fleet.knows(model)

    def entries(self) -> dict[str, dict[str, object]]:
        """Return the entries of `/v1/models`: the configured pairs of known models, under both protocols."""
        names = [
            f"{protocol}/{pair.local}+{pair.remote}"
            for pair in self._config.pairs or ()
            if self._is_pair(pair.local, pair.remote)
            for protocol in ("minions", "minion")
        ]
        return {
            name: {
                "id": name,
                "object": "model",
                "created": self._created_unix_seconds,
                "owned_by": "motley",
                "root": name,
            }
            for name in names
        }

    async def answer(
        self, call: Call, tenant: Tenant, record: RequestRecord, scope: Scope, send: Send
    ) -> None:
        """Answer one request; its body has been read, and the tenant let in by the virtual name.

        Raises:
            RouterError: If there is no answer and nothing has been sent.
        """
        name = self._find(call)
        record.model = name.model
        for model in (name.local, name.remote):
            if not tenant.allows(model):
                raise ModelForbiddenError(model, tenant.models or ())
        part_bytes = self._config.document_part_bytes
        request = read_request(call.query.fields, document_part_bytes=part_bytes)
        check_length(name, request, self._config, self._context_tokens(name.local))
        if request.is_stream:
            await self._answer_stream(name, request, call, record, scope, send)
            return
        async with cancelled_when_client_leaves(scope):
            answered = await self._solve(name, request, call, record, lambda _: None)
            record.status = 200
            headers = [
                (b"content-type", b"application/json"),
                (b"x-motley-minions", str(answered.outcome.result).encode()),
            ]
            await send_whole(send, 200, headers, json.dumps(answered.whole()).encode())

    def _find(self, call: Call) -> VirtualName:
        model = call.query.model
        name = split_name(model, self._is_pair)
        if name is None:
            raise UnknownModelError(model, [*self._fleet.model_entries(), *self.entries()])
        if call.target.partition("?")[0] != TARGET:
            raise ParameterError("model", f"{model!r} is a chat model; post to {TARGET}")
        return name

    def _is_pair(self, local: str, remote: str) -> bool:
        if self._pairs is not None and (local, remote) not in self._pairs:
            return False
        return self._fleet.knows(local) and self._fleet.knows(remote)

    async def _answer_stream(
        self,
        name: VirtualName,
        request: MinionsRequest,
        call: Call,
        record: RequestRecord,
        scope: Scope,
        send: Send,
    ) -> None:
        stream = ProgressStream(send)
        record.is_stream = True
        try:
            async with cancelled_when_client_leaves(scope):
                async with stream.open() as tell:
                    answered = await self._solve(name, request, call, record, tell)
                record.status = 200
                record.first_byte_at = self._services.monotonic()
                await stream.finish(answered.events(with_usage=request.includes_usage))
                record.last_byte_at = self._services.monotonic()
        except ClientGoneError:
            raise
        except RouterError as error:
            record.status = status_of(error)
            await say_farewell(error, stream.fail)

    async def _solve(
        self,
        name: VirtualName,
        request: MinionsRequest,
        call: Call,
        record: RequestRecord,
        tell: Callable[[str], None],
    ) -> Answered:
        ledger = Ledger(Side(self._price(name.local)), Side(self._price(name.remote)))
        models = Models(
            local=self._leg(name.local, request, call, record),
            remote=self._leg(name.remote, request, call, record),
            ledger=ledger,
            local_context_tokens=self._context_tokens(name.local),
        )
        try:
            outcome = await solve(name, request, models, self._config, tell=tell)
        except RouterError:
            self._metrics.failed(name.protocol)
            raise
        finally:
            self._metrics.spent(ledger)
            record.usage = _total(ledger)
            record.cost_usd = ledger.cost_usd
        self._metrics.answered(name.protocol, outcome)
        logger.info(
            "minions answered model=%s result=%s num_rounds=%d num_jobs=%d num_abstained=%d "
            "num_failed=%d local_tokens=%d remote_tokens=%d",
            name.model,
            outcome.result,
            outcome.num_rounds,
            outcome.num_jobs,
            outcome.num_abstained,
            outcome.num_failed,
            ledger.local.total_tokens,
            ledger.remote.total_tokens,
        )
        return Answered(
            name=name,
            context=request.context,
            outcome=outcome,
            ledger=ledger,
            answer_id=f"chatcmpl-{uuid.uuid4().hex}",
            created_unix_seconds=int(self._services.wall()),
        )

    def _leg(self, model: str, request: MinionsRequest, call: Call, record: RequestRecord) -> Leg:
        return Leg(
            model,
            self._services,
            self._config,
            parent=record,
            headers=_json_headers(call.headers),
            sampling=request.sampling,
        )

    def _context_tokens(self, model: str) -> int | None:
        facts = self._facts.get(model)
        return None if facts is None else facts.context_tokens

    def _price(self, model: str) -> Price | None:
        facts = self._facts.get(model)
        if facts is None:
            return None
        prompt, completion = facts.price_input_usd_per_million, facts.price_output_usd_per_million
        return None if prompt is None or completion is None else Price(prompt, completion)


def _total(ledger: Ledger) -> Usage:
    local, remote = ledger.local, ledger.remote
    return Usage(
        prompt_tokens=local.prompt_tokens + remote.prompt_tokens,
        completion_tokens=local.completion_tokens + remote.completion_tokens,
    )


def _json_headers(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the client's headers with the type of the bodies that legs send."""
    kept = tuple(each for each in headers if each[0] not in ("content-type", "accept"))
    return (*kept, ("content-type", "application/json"))
