"""A client's side of a secure sum: four messages in, four out, in this order only."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from finetune.errors import SecureSumError
from finetune.trust.secure_sum import messages
from finetune.trust.secure_sum.fixed_point import FixedPoint, Masked
from finetune.trust.secure_sum.keys import (
    agree,
    commitment,
    mask,
    open_sealed,
    public_bytes,
    seal,
    sign,
    verify,
)
from finetune.trust.secure_sum.messages import Kind, PublicKeys
from finetune.trust.secure_sum.shamir import SECRET_BYTES, SHARE_BYTES, share


class SecureSumClient:
    """One client in one session. Each step may be taken once; after an error none may.

    What it reveals of a peer is a share of that peer's mask key, or of its own mask, never both: it
    answers one list of survivors. That is private against a server that keeps to the protocol. It is
    not against one that lies: the paper's extra round, in which clients sign the list of survivors
    for each other, is left out, and a server that tells clients different lists can open one
    client's values. So can one that weighs the others near 0, or has them train from another
    adapter, so that the sum is one client's.
    """

    def __init__(
        self,
        client: int,
        *,
        session: bytes,
        threshold: int,
        grid: FixedPoint,
        signing: Ed25519PrivateKey,
        directory: Mapping[int, bytes],
    ) -> None:
        """Make the keys of this session.

        Args:
            client: Our number, from 1 on.
            session: 16 random bytes, the same for all.
            threshold: Fewest clients whose sum we help to show, at least 2.
            grid: How values are rounded, the same for all.
            signing: The key our peers know us by.
            directory: Ed25519 public keys, 32 bytes, of all clients by number. Like the threshold
                from the job, not from the server, which could else invent clients.

        Raises:
            ValueError: If the threshold is below 2 or the directory lacks us.
        """
        if threshold < 2:
            raise ValueError(
                f"threshold {threshold} would show one client's values; give 2 or more"
            )
        if directory.get(client) != signing.public_key().public_bytes_raw():
            raise ValueError(f"the directory does not know client {client} by its signing key")
        self._client, self._session = client, session
        self._signing, self._directory = signing, dict(directory)
        self._threshold, self._grid = threshold, grid
        self._awaited: Kind | None = None
        self._sealing, self._masking = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        sealing, masking = public_bytes(self._sealing), public_bytes(self._masking)
        signature = sign(signing, self._signed(client, sealing + masking))
        self._keys = PublicKeys(sealing, masking, signature)
        self._own_mask = os.urandom(SECRET_BYTES)
        self._roster: dict[int, PublicKeys] = {}
        self._roster_digest = b""
        self._shares: dict[int, bytes] = {}

    def advertise(self) -> bytes:
        """Return our public keys for the server; the first step."""
        if self._awaited is not None or self._roster:
            raise SecureSumError("this session's keys were sent already; begin a new session")
        self._awaited = Kind.ROSTER
        return self._pack(Kind.KEYS, messages.pack_keys(self._keys))

    def share_keys(self, roster: bytes) -> bytes:
        """Take everybody's public keys; return shares of our secrets, sealed for each peer.

        Raises:
            SecureSumError: If the roster is too small or too large, or not in order.
        """
        body = self._take(roster, Kind.ROSTER)
        rows = messages.unpack_table(body, value_bytes=messages.PUBLIC_KEYS_BYTES)
        self._roster = {client: messages.unpack_keys(row) for client, row in rows.items()}
        self._check_roster()
        self._roster_digest = hashlib.sha256(body).digest()
        points = sorted(self._roster)
        key_shares = share(
            self._masking.private_bytes_raw(), points=points, threshold=self._threshold
        )
        mask_shares = share(self._own_mask, points=points, threshold=self._threshold)
        pairs = {point: key_shares[point] + mask_shares[point] for point in points}
        self._shares[self._client] = pairs.pop(self._client)
        self._awaited = Kind.INBOX
        sealed = {
            peer: seal(self._sealing_key(peer), pair, context=self._context(self._client, peer))
            for peer, pair in pairs.items()
        }
        return self._pack(Kind.SHARES, messages.pack_table(sealed))

    def masked_input(self, inbox: bytes, values_N: NDArray[np.floating]) -> bytes:
        """Take the peers' sealed shares; return our values under all masks.

        Raises:
            SecureSumError: If a share was changed, or too few peers are left.
            ValueError: If a value does not fit the grid.
        """
        sealed = messages.unpack_table(
            self._take(inbox, Kind.INBOX), value_bytes=messages.SEALED_BYTES
        )
        self._require(len(sealed) + 1, "shared their keys")
        for peer, box in sealed.items():
            if peer == self._client or peer not in self._roster:
                raise SecureSumError(f"a share comes from client {peer}, which is no peer")
            context = self._context(peer, self._client)
            self._shares[peer] = open_sealed(self._sealing_key(peer), box, context=context)
        masked_N: Masked = self._grid.encode(values_N) + self._mask(self._own_mask, len(values_N))
        for peer in sealed:
            masked_N = masked_N + self._pair_mask(peer, len(values_N))
        self._awaited = Kind.SURVIVORS
        bound = commitment(self._session, self._client, self._own_mask)
        return self._pack(Kind.MASKED, bound + masked_N.tobytes())

    def reveal(self, survivors: bytes) -> bytes:
        """Take the list of those whose values came; return what takes their masks off.

        For a survivor that is our share of its own mask, for a client that was lost our share of
        its mask key. The secrets are forgotten.

        Raises:
            SecureSumError: If the list is too short, lacks us, or names a stranger.
        """
        alive = messages.unpack_clients(self._take(survivors, Kind.SURVIVORS))
        self._require(len(alive), "are left")
        if self._client not in alive:
            raise SecureSumError("the list of survivors lacks us, whose values were sent")
        if not alive <= self._shares.keys():
            raise SecureSumError("the list of survivors names a client that shared no keys")
        rows = {
            peer: pair[SHARE_BYTES:] if peer in alive else pair[:SHARE_BYTES]
            for peer, pair in self._shares.items()
        }
        self._shares, self._own_mask = {}, b""
        return self._pack(Kind.REVEALED, messages.pack_table(rows))

    def _check_roster(self) -> None:
        self._require(len(self._roster), "sent their keys")
        if 2 * self._threshold <= len(self._roster):
            raise SecureSumError(
                f"threshold {self._threshold} is no majority of {len(self._roster)} clients; "
                "the server could ask two halves for different secrets: raise it"
            )
        if len(self._roster) > self._grid.num_clients:
            raise SecureSumError(
                f"{len(self._roster)} clients, the grid has room for {self._grid.num_clients}"
            )
        if self._roster.get(self._client) != self._keys:
            raise SecureSumError("the roster holds other keys for us than we sent")
        for client, keys in self._roster.items():
            signed = self._signed(client, keys.sealing + keys.masking)
            if not verify(self._directory.get(client, b""), keys.signature, signed):
                raise SecureSumError(f"the keys of client {client} are not signed by that client")
        used = [key for keys in self._roster.values() for key in (keys.sealing, keys.masking)]
        if len(set(used)) != len(used):
            raise SecureSumError("the roster holds a key twice")

    def _require(self, num_clients: int, what: str) -> None:
        if num_clients < self._threshold:
            raise SecureSumError(
                f"{num_clients} clients {what}, {self._threshold} are needed; the round is lost"
            )

    def _take(self, message: bytes, kind: Kind) -> bytes:
        """Return a message's body; whatever goes wrong from here on, no step can be repeated."""
        body = messages.unpack(message, kind, self._session, client=self._client)
        if self._awaited is not kind:
            raise SecureSumError(f"{kind.name} is not awaited now; it may have come before")
        self._awaited = None
        return body

    def _pack(self, kind: Kind, body: bytes) -> bytes:
        return messages.pack(kind, self._session, self._client, body)

    def _signed(self, client: int, keys: bytes) -> bytes:
        return b"motley secure sum keys" + self._session + client.to_bytes(4, "big") + keys

    def _sealing_key(self, peer: int) -> bytes:
        public = self._roster[peer].sealing
        return agree(self._sealing, public, purpose=b"shares" + self._session)

    def _context(self, source: int, target: int) -> bytes:
        """Return what a sealed share is bound to: session, direction, and one roster for all."""
        ends = source.to_bytes(4, "big") + target.to_bytes(4, "big")
        return self._session + ends + self._roster_digest

    def _mask(self, seed: bytes, num_entries: int) -> Masked:
        return mask(seed, num_entries=num_entries, grid=self._grid)

    def _pair_mask(self, peer: int, num_entries: int) -> Masked:
        seed = agree(self._masking, self._roster[peer].masking, purpose=b"masks" + self._session)
        values_N = self._mask(seed, num_entries)
        return values_N if self._client < peer else -values_N
