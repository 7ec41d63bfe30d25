"""A session of secure sums whose clients can be lost and whose messages can be looked at."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from finetune.errors import SecureSumError
from finetune.trust.secure_sum.client import SecureSumClient
from finetune.trust.secure_sum.fixed_point import FixedPoint
from finetune.trust.secure_sum.keys import agree, mask
from finetune.trust.secure_sum.messages import COMMITMENT_BYTES, Kind
from finetune.trust.secure_sum.server import SecureSumServer

SESSION = b"one session only"
GRID = FixedPoint(2.0, num_clients=8)
HEAD_BYTES = 21


class Session:
    """Clients 1 to n with random values, and their server."""

    def __init__(self, num_clients, *, threshold, num_entries=20, bits=32):
        self.grid = FixedPoint(2.0, num_clients=num_clients, bits=bits)
        numbers = range(1, num_clients + 1)
        self.signing = {number: Ed25519PrivateKey.generate() for number in numbers}
        self.directory = {
            number: key.public_key().public_bytes_raw() for number, key in self.signing.items()
        }
        self.clients = {
            number: SecureSumClient(
                number,
                session=SESSION,
                threshold=threshold,
                grid=self.grid,
                signing=self.signing[number],
                directory=self.directory,
            )
            for number in numbers
        }
        generator = np.random.default_rng(num_clients)
        self.values = {number: generator.uniform(-2, 2, num_entries) for number in numbers}
        self.server = SecureSumServer(
            numbers,
            session=SESSION,
            threshold=threshold,
            grid=self.grid,
            num_entries=num_entries,
        )
        self.sent = {}
        """Every message of a client, by its number and kind; those that came too late too."""

    def answers(self, kind, replies):
        """Return what each client sends in a stage, given what it got."""
        if kind is Kind.KEYS:
            sent = {number: client.advertise() for number, client in self.clients.items()}
        else:
            sent = {number: self.answer(kind, number, reply) for number, reply in replies.items()}
        self.sent.update({(number, kind): message for number, message in sent.items()})
        return sent

    def answer(self, kind, number, reply):
        """Return what one client sends in a later stage."""
        client = self.clients[number]
        if kind is Kind.SHARES:
            return client.share_keys(reply)
        if kind is Kind.MASKED:
            return client.masked_input(reply, self.values[number])
        return client.reveal(reply)

    def until(self, last, lost=None):
        """Run the stages before `last` and return what the clients get then."""
        replies = {}
        for kind in (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.REVEALED):
            if kind is last:
                break
            gone = (lost or {}).get(kind.name, set())
            for number, message in self.answers(kind, replies).items():
                if number not in gone:
                    self.server.receive(number, message)
            replies = self.server.advance()
        return replies

    def run(self, lost=None, *, late=False):
        """Run all stages; `lost` maps a stage to the clients whose message never comes.

        With `late` a lost vector comes after its stage was closed, and is refused.
        """
        self.until(None, lost)
        if late:
            for number in lost["MASKED"]:
                try:
                    self.server.receive(number, self.sent[number, Kind.MASKED])
                except SecureSumError:
                    continue
                raise AssertionError("a late vector was taken")
        return self.server.total()

    def masked(self, number):
        """Return the vector that a client sent."""
        return np.frombuffer(
            self.sent[number, Kind.MASKED][HEAD_BYTES + COMMITMENT_BYTES :], self.grid.dtype
        )

    def pair_mask(self, key, number, peer):
        """Return what `number`, whose mask key is known, added for a peer."""
        public = self.clients[peer]._keys.masking
        seed = agree(key, public, purpose=b"masks" + SESSION)
        values = mask(seed, num_entries=len(self.values[number]), grid=self.grid)
        return values if number < peer else -values
