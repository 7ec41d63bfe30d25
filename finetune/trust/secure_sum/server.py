"""The server's side of a secure sum: it passes messages on, and can take off the sum's masks."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from finetune.errors import SecureSumError
from finetune.trust.secure_sum import messages
from finetune.trust.secure_sum.fixed_point import FixedPoint, Masked
from finetune.trust.secure_sum.keys import agree, commitment, mask, public_bytes
from finetune.trust.secure_sum.messages import COMMITMENT_BYTES, Kind
from finetune.trust.secure_sum.shamir import SHARE_BYTES, right_shares

logger = logging.getLogger(__name__)

_ANSWERS = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.REVEALED)


class SecureSumServer:
    """One session. `receive` what clients send, `advance` when all answered or time is up.

    Clients that have not answered by then are lost; the sum survives as long as `threshold` stay.
    A refused message changes nothing, so its client may still answer properly.
    """

    def __init__(
        self,
        clients: Iterable[int],
        *,
        session: bytes,
        threshold: int,
        grid: FixedPoint,
        num_entries: int,
    ) -> None:
        """Begin a session.

        Args:
            clients: The numbers, from 1 on, of those that are asked.
            session: 16 random bytes of this session alone.
            threshold: Fewest clients whose sum may be shown; more than half of them.
            grid: How values are rounded, the same for all.
            num_entries: Length of the vectors.

        Raises:
            ValueError: If the threshold does not fit the number of clients.
        """
        self._asked = frozenset(clients)
        if not len(self._asked) < 2 * threshold <= 2 * len(self._asked):
            raise ValueError(
                f"threshold {threshold} of {len(self._asked)} clients; give more than half of "
                "them and no more than there are"
            )
        self._session, self._threshold = session, threshold
        self._grid, self._num_entries = grid, num_entries
        self._answers: list[dict[int, bytes]] = [{}]
        self.false_shares: Counter[int] = Counter()
        """Shares of each client that were found false in `total`."""

    def receive(self, client: int, message: bytes) -> None:
        """Take a message.

        Args:
            client: Who sent it, as the transport knows.
            message: What it sent.

        Raises:
            SecureSumError: If it is not what this client has to send now, or comes again.
        """
        stage = self._stage()
        body = messages.unpack(message, _ANSWERS[stage], self._session, client=client)
        if client not in self._expected:
            raise SecureSumError(f"client {client} is not in this stage; it was lost before")
        if client in self._answers[stage]:
            raise SecureSumError(f"client {client} answered already")
        self._check(client, body)
        self._answers[stage][client] = body

    def advance(self) -> dict[int, bytes]:
        """Close the stage; return what each client that answered gets next, nothing after the last.

        Raises:
            SecureSumError: If fewer than `threshold` answered.
        """
        stage = self._stage()
        answered = self._answers[stage].keys()
        lost = sorted(self._expected - answered)
        if lost:
            logger.warning(
                "secure sum lost clients=%s stage=%s left=%d",
                lost,
                _ANSWERS[stage].name,
                len(answered),
            )
        if len(answered) < self._threshold:
            raise SecureSumError(
                f"{len(answered)} clients sent {_ANSWERS[stage].name}, {self._threshold} are "
                "needed; the round is lost"
            )
        replies = self._replies(stage)
        self._answers.append({})
        return replies

    def total(self) -> tuple[NDArray[np.float64], frozenset[int]]:
        """Return the sum of the survivors' vectors, and who they are.

        Raises:
            SecureSumError: If the last stage is not closed, or shares do not fit what was promised.
        """
        if len(self._answers) <= len(_ANSWERS):
            raise SecureSumError("the sum is not there yet; close every stage first")
        shared, inputs = self._answers[1].keys(), self._answers[2]
        total_N: Masked = np.zeros(self._num_entries, self._grid.dtype)
        for client, body in inputs.items():
            total_N = total_N + np.frombuffer(body[COMMITMENT_BYTES:], self._grid.dtype)
            total_N = total_N - self._mask(self._own_mask(client))
        for lost in shared - inputs.keys():
            key = self._mask_key(lost)
            for client in inputs:
                seed = agree(key, self._masking_key(client), purpose=b"masks" + self._session)
                pair_N = self._mask(seed)
                total_N = total_N - (pair_N if client < lost else -pair_N)
        return self._grid.decode(total_N), frozenset(inputs)

    def _stage(self) -> int:
        stage = len(self._answers) - 1
        if stage == len(_ANSWERS):
            raise SecureSumError("the session is over; begin another for another sum")
        return stage

    @property
    def _expected(self) -> frozenset[int]:
        """Who has not been lost in an earlier stage."""
        return frozenset(self._answers[-2]) if len(self._answers) > 1 else self._asked

    def _check(self, client: int, body: bytes) -> None:
        match _ANSWERS[self._stage()]:
            case Kind.KEYS:
                messages.unpack_keys(body)
            case Kind.SHARES:
                rows = messages.unpack_table(body, value_bytes=messages.SEALED_BYTES)
                if rows.keys() != self._answers[0].keys() - {client}:
                    raise SecureSumError(f"client {client} shared its keys with other clients")
            case Kind.MASKED:
                length = COMMITMENT_BYTES + self._num_entries * self._grid.bits // 8
                if len(body) != length:
                    raise SecureSumError(f"client {client} sent {len(body)} bytes, not {length}")
            case Kind.REVEALED:
                rows = messages.unpack_table(body, value_bytes=SHARE_BYTES)
                if rows.keys() != self._answers[1].keys():
                    raise SecureSumError(f"client {client} revealed shares of other clients")

    def _replies(self, stage: int) -> dict[int, bytes]:
        answers = self._answers[stage]
        match _ANSWERS[stage]:
            case Kind.KEYS:
                roster = messages.pack_table(answers)
                return {client: self._pack(Kind.ROSTER, client, roster) for client in answers}
            case Kind.SHARES:
                sent = {
                    client: messages.unpack_table(body, value_bytes=messages.SEALED_BYTES)
                    for client, body in answers.items()
                }
                return {
                    target: self._pack(
                        Kind.INBOX,
                        target,
                        messages.pack_table(
                            {source: sent[source][target] for source in sent if source != target}
                        ),
                    )
                    for target in answers
                }
            case Kind.MASKED:
                alive = messages.pack_clients(answers)
                return {client: self._pack(Kind.SURVIVORS, client, alive) for client in answers}
            case _:
                return {}

    def _own_mask(self, client: int) -> bytes:
        promised = self._answers[2][client][:COMMITMENT_BYTES]
        return self._secret(
            client,
            lambda secret: commitment(self._session, client, secret) == promised,
            what=f"client {client}'s mask",
        )

    def _mask_key(self, client: int) -> X25519PrivateKey:
        promised = self._masking_key(client)

        def is_right(secret: bytes) -> bool:
            return public_bytes(X25519PrivateKey.from_private_bytes(secret)) == promised

        secret = self._secret(client, is_right, what=f"client {client}'s key")
        return X25519PrivateKey.from_private_bytes(secret)

    def _secret(self, client: int, is_right: Callable[[bytes], bool], *, what: str) -> bytes:
        """Return what the revealed shares of one client give, false shares left out.

        Raises:
            SecureSumError: If too few right ones are there, or they are not found.
        """
        shares = {
            holder: messages.unpack_table(body, value_bytes=SHARE_BYTES)[client]
            for holder, body in self._answers[3].items()
        }
        found = right_shares(shares, self._threshold, is_right, distrusted=self.false_shares.keys())
        if found is None:
            raise SecureSumError(
                f"the shares of {what} are wrong; the sum is lost, and {len(shares)} shares for a "
                f"threshold of {self._threshold} do not show whose is false"
            )
        secret, false = found
        for holder in false:
            self.false_shares[holder] += 1
            logger.warning("false share left out client=%d of=%r", holder, what)
        return secret

    def _masking_key(self, client: int) -> bytes:
        return messages.unpack_keys(self._answers[0][client]).masking

    def _mask(self, seed: bytes) -> Masked:
        return mask(seed, num_entries=self._num_entries, grid=self._grid)

    def _pack(self, kind: Kind, client: int, body: bytes) -> bytes:
        return messages.pack(kind, self._session, client, body)
