"""`/admin/replicas`: the fleet shown, and changed by hand.

- `GET` lists the replicas with their models, health and load, and who named them.
- `POST {url, model, offer?, api_key_file?}`, and what else a replica takes in the router's file, adds
  one, or takes one back that was sent away; the answer comes when it has been checked once.
- `DELETE ?url=URL` sends one away: no new requests, and it leaves when the last that runs has ended.
  It stays away, whoever names it, until it is added again.
"""

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from planner.documents import describe
from planner.errors import DocumentError
from router.call import read_object
from router.config import ReplicaConfig
from router.discovery.member import ADMIN, Member
from router.discovery.roster import Roster
from router.errors import ParameterError, UnknownModelError, UnknownReplicaError
from router.exchange import read_body
from router.fleet import Fleet
from router.replica import Replica


class ReplicaCommands:
    """Answers what is asked of `/admin/replicas`."""

    def __init__(self, fleet: Fleet, roster: Roster, *, max_body_bytes: int) -> None:
        self._fleet = fleet
        self._roster = roster
        self._max_body_bytes = max_body_bytes

    async def list_all(self, request: Request) -> Response:
        """List the replicas in the order of arrival, those that drain included."""
        data = [_card(replica) for replica in self._fleet.replicas]
        withheld = sorted(self._roster.withheld)
        return JSONResponse({"object": "list", "data": data, "withheld": withheld})

    async def add(self, request: Request) -> Response:
        """Add the replica of the body, and answer with what its first check found."""
        body = await read_body(request.scope, request.receive, max_body_bytes=self._max_body_bytes)
        member = _read_member(body)
        if member.model not in self._fleet.base_models:
            raise UnknownModelError(member.model, self._fleet.base_models)
        try:
            await self._roster.add(member)
        except DocumentError as error:
            raise ParameterError("api_key_file", str(error)) from None
        replica = self._fleet.find(member.replica.url)
        if replica is None:  # sent away again by another command meanwhile
            raise UnknownReplicaError(member.replica.url)
        return JSONResponse(_card(replica))

    async def drain(self, request: Request) -> Response:
        """Send a replica away; 202 while requests run on it."""
        url = request.query_params.get("url", "").rstrip("/")
        if not url:
            raise ParameterError("url", "is required; add ?url= with the replica's address")
        if self._fleet.find(url) is None:
            raise UnknownReplicaError(url)
        await self._roster.send_away(url)
        replica = self._fleet.find(url)
        if replica is None:
            return JSONResponse({"url": url, "status": "removed", "num_outstanding": 0})
        content = {"url": url, "status": "draining", "num_outstanding": replica.num_outstanding}
        return JSONResponse(content, status_code=202)


def _read_member(body: bytes) -> Member:
    fields = read_object(body)
    model = fields.pop("model", None)
    if not isinstance(model, str) or not model:
        raise ParameterError("model", "is required; name the model that the replica serves")
    try:
        replica = ReplicaConfig.model_validate(fields)
    except ValidationError as error:
        where, _, problem = describe(error, ReplicaConfig).partition(": ")
        raise ParameterError(where, problem) from None
    return Member(model, replica, ADMIN)


def _card(replica: Replica) -> dict[str, object]:
    return {
        "url": replica.url,
        "models": sorted(replica.configured_models),
        "offers": dict(replica.offers),
        "sources": list(replica.sources),
        "is_healthy": replica.is_healthy,
        "is_draining": replica.is_draining,
        "num_outstanding": replica.num_outstanding,
        "lists": sorted(replica.listed_models),
    }
