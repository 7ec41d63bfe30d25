"""What the ranks of a job tell each other beside their collectives: heartbeats and one verdict."""

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from finetune.sequence_parallel.distributed import Launch
from finetune.sequence_parallel.rank_roll import DONE, Place

_MEETING_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why all stop.

    Attributes:
        message: One line.
        speaker: Rank that says it; None where `failed_rank` tells of its own error.
        failed_rank: Rank that ends by an error of its own; None where a rank was lost.
    """

    message: str
    speaker: int | None = None
    failed_rank: int | None = None


class WatchStore:
    """A connection of its own to the store that the job's processes met in.

    Attributes:
        keeper: Rank whose process keeps the store; None where torchrun does.
    """

    def __init__(self, launch: Launch, environment: Mapping[str, str]) -> None:
        """Connect.

        Raises:
            dist.DistError: If nothing listens there.
            OSError: Likewise.
        """
        address = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        client = dist.TCPStore(  # type: ignore[attr-defined]
            *address,
            is_master=False,
            timeout=timedelta(seconds=_MEETING_SECONDS),
            wait_for_workers=False,
        )
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"motley-rank-watch-{attempt}", client)  # type: ignore[attr-defined]
        self._size = launch.world_size
        self.keeper = None if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
        # It idles: the kernel closes it with the store, and torch need not complain of that.
        self._line = socket.create_connection(address, timeout=_MEETING_SECONDS)
        self._line.setblocking(False)

    def meet(self, rank: int, place: Place) -> list[Place]:
        """Tell where this rank is; return where all are, once all have come."""
        if rank == 0:
            self._store.set("verdict", "")
        self.beat(rank, "here")
        self._store.set(f"busy-{rank}", "")
        self._store.set(f"place-{rank}", json.dumps(asdict(place)))
        self._store.wait(["verdict"])
        return [Place(**json.loads(self._store.get(f"place-{r}"))) for r in range(self._size)]

    def beat(self, rank: int, value: str) -> None:
        """Write a rank's heartbeat; one that differs from the last is news."""
        self._store.set(f"beat-{rank}", value)

    def beat_for(self, rank: int, value: str) -> None:
        """Write that another rank lives; beside its own beats, for it may write its last just now."""
        self._store.set(f"busy-{rank}", value)

    def read(self) -> tuple[list[str], Verdict | None]:
        """Return every rank's beat, and the verdict if there is one."""
        ranks = range(self._size)
        keys = [*(f"beat-{rank}" for rank in ranks), *(f"busy-{rank}" for rank in ranks)]
        *words, verdict = (value.decode() for value in self._store.multi_get([*keys, "verdict"]))
        pairs = zip(words[: self._size], words[self._size :], strict=True)
        beats = [DONE if own == DONE else own + by_another for own, by_another in pairs]
        return beats, Verdict(**json.loads(verdict)) if verdict else None

    def propose(self, verdict: Verdict) -> None:
        """Make it the verdict, unless there is one."""
        self._store.compare_set("verdict", "", json.dumps(asdict(verdict)))

    def acknowledge(self) -> None:
        """Tell the keeper that this rank has read the verdict."""
        self._store.add("read", 1)

    def all_acknowledged(self) -> bool:
        """Return whether all but this rank have."""
        return self._store.add("read", 0) >= self._size - 1

    def is_closed(self) -> bool:
        """Return whether the process that kept the store is gone."""
        try:
            return not self._line.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True
