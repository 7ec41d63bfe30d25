"""The communicators of groups of ranks: made when a plan first names them, kept for every later one."""

from collections.abc import Iterable

import torch.distributed as dist

Ranks = tuple[int, ...]


class GroupPool:
    """Process groups by their ranks.

    A group of one needs no communicator, and that of all ranks is the job's own.

    Attributes:
        rank: This process, from 0.
        world_size: Processes of the job; 1 where torch.distributed was not begun.
        is_distributed: Whether it was begun.
        num_created: Communicators made so far in the job, the same on every rank.
    """

    def __init__(self) -> None:
        """Look up this process; make nothing yet."""
        self.is_distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.is_distributed else 0
        self.world_size = dist.get_world_size() if self.is_distributed else 1
        self.num_created = 0
        self._groups: dict[Ranks, dist.ProcessGroup | None] = {}

    def prepare(self, groups: Iterable[Ranks]) -> None:
        """Make what lacks of these groups. Every rank of the job calls, with the same groups.

        Members alone cannot: torch names a group made so by how many its maker knew before
        (`_hash_ranks_to_str`), and ranks with unequal pasts would wait for each other for ever.

        Args:
            groups: Ranks of each, ascending.

        Raises:
            ValueError: If ranks do not ascend, or are not of this job.
        """
        for ranks in groups:
            if (
                list(ranks) != sorted(set(ranks))
                or not 0 <= ranks[0] <= ranks[-1] < self.world_size
            ):
                raise ValueError(f"ranks {ranks}: not ascending, or not of {self.world_size}")
            if 1 < len(ranks) < self.world_size and ranks not in self._groups:
                made = dist.new_group(list(ranks))
                self._groups[ranks] = made if self.rank in ranks else None
                self.num_created += 1

    def group(self, ranks: Ranks) -> dist.ProcessGroup | None:
        """Return the communicator of these ranks, this one among them; None for one alone.

        Raises:
            KeyError: If it was not prepared.
        """
        if len(ranks) == 1:
            return None
        if len(ranks) == self.world_size:
            return dist.group.WORLD
        return self._groups[ranks]
