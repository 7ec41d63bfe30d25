"""Clients with quadratic losses: local training in closed form, any number of steps at one price.

Client k has the loss 1/2 (w - c)' diag(h) (w - c). Gradient descent with noise of variance s^2 moves
each coordinate by (1 - (1 - rate h)^steps) (c - w) on average; its noise is that of an autoregressive
process. Clients of a domain share centre and curvature but for a jitter, and their speed: the
slowest domain's machines are 8 times slower than the fastest's.
"""

from collections.abc import Sequence

import numpy as np

from finetune.scheduling.decisions import Assignment, Client
from finetune.updates import Tensors
from finetune.virtual_clock import LocalResult, SimulatedClient

NUM_DOMAINS = 8
NUM_COORDINATES = 16
CONDITIONING = 3.0
"""Decades between the flattest and the steepest coordinate."""
GRADIENT_NOISE = 0.3
CLIENT_SPREAD = 0.1
ADAPTER_BYTES = 1_000_000
FASTEST_SECONDS_PER_STEP = 0.1
DOWNLOAD_BYTES_PER_SECOND = 2_000_000
UPLOAD_BYTES_PER_SECOND = 1_000_000


class Quadratics:
    """One adapter's task on all clients.

    Attributes:
        base_loss: Of the adapter before training, over all clients by their examples.
        best_loss: The least there is.
    """

    def __init__(
        self,
        num_clients: int,
        *,
        seed: int,
        learning_rate: float,
        size: float = 1.0,
        domain_spread: float = 0.5,
    ) -> None:
        """Draw centres and curvatures; start and centres are about `size` apart in each coordinate.

        Args:
            num_clients: Named by their numbers.
            seed: Of everything drawn.
            learning_rate: Of local training.
            size: Of the common centre's coordinates.
            domain_spread: Standard deviation of the domains' centres around it.
        """
        random = np.random.default_rng((seed, 1))
        self._noise = np.random.default_rng((seed, 2))
        self._rate = learning_rate
        domain = np.arange(num_clients) % NUM_DOMAINS
        common = size * random.choice((-1.0, 1.0), NUM_COORDINATES)
        centres = common + random.normal(0, domain_spread, (NUM_DOMAINS, NUM_COORDINATES))
        curvatures = 10 ** random.uniform(-CONDITIONING, 0, (NUM_DOMAINS, NUM_COORDINATES))
        jitter = random.normal(0, CLIENT_SPREAD, (num_clients, NUM_COORDINATES))
        self._centres = centres[domain] + jitter
        self._curvatures = curvatures[domain] * np.exp(random.normal(0, 0.1, jitter.shape))
        self._domain = domain
        shares = examples_of(num_clients, seed)
        self._shares = shares / shares.sum()
        self.base_loss = self.loss(np.zeros(NUM_COORDINATES))
        weighted = self._shares[:, None] * self._curvatures
        self.best_loss = self.loss((weighted * self._centres).sum(0) / weighted.sum(0))

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> list[LocalResult]:
        """Return each client's change after its steps of noisy gradient descent."""
        who = [int(one.client) for one in assignments]
        steps = np.array([one.steps for one in assignments])[:, None]
        h, way = self._curvatures[who], self._centres[who] - tensors["w"]
        keep = (1 - self._rate * h) ** steps
        variance = (1 - keep**2) / (1 - (1 - self._rate * h) ** 2)
        noise = self._rate * GRADIENT_NOISE * np.sqrt(variance)
        change = (1 - keep) * way + noise * self._noise.normal(size=way.shape)
        losses = (h * (way**2 + (way - change) ** 2)).sum(1) / 4
        rows = change.astype(np.float32)
        return [
            LocalResult({"w": row}, loss, ADAPTER_BYTES, ADAPTER_BYTES)
            for row, loss in zip(rows, losses.tolist(), strict=True)
        ]

    def loss(self, w: np.ndarray) -> float:
        """Return the loss over all clients by their examples."""
        return float(self._shares @ self._client_losses(w))

    def domain_loss(self, w: np.ndarray, domain: int) -> float:
        """Return the loss over the clients of one domain; the last is the slowest."""
        shares = self._shares * (self._domain == domain)
        return float(shares @ self._client_losses(w) / shares.sum())

    def progress(self, tensors: Tensors) -> float:
        """Return the share of the possible improvement that is reached."""
        loss = self.loss(tensors["w"].astype(np.float64))
        return (self.base_loss - loss) / (self.base_loss - self.best_loss)

    def _client_losses(self, w: np.ndarray) -> np.ndarray:
        return (self._curvatures * (self._centres - w) ** 2).sum(1) / 2


class Several:
    """Several adapters' tasks, each assignment sent to its own."""

    def __init__(self, tasks: dict[str, Quadratics]) -> None:
        """Keep the tasks by adapter."""
        self.tasks = tasks

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> list[LocalResult]:
        """Return the results of assignments of one adapter."""
        return self.tasks[assignments[0].adapter].train(tensors, assignments)


def examples_of(num_clients: int, seed: int) -> np.ndarray:
    """Return each client's examples, 50 to 500."""
    return np.random.default_rng((seed, 3)).integers(50, 501, num_clients)


def fleet(num_clients: int, *, seed: int) -> list[SimulatedClient]:
    """Return machines 1 to 8 times as slow as the fastest by domain, and links that differ a little."""
    random = np.random.default_rng((seed, 4))
    examples = examples_of(num_clients, seed)
    slowness = np.linspace(1, 8, NUM_DOMAINS)[np.arange(num_clients) % NUM_DOMAINS]
    seconds = FASTEST_SECONDS_PER_STEP * np.clip(
        slowness * np.exp(random.normal(0, 0.1, num_clients)), 1, 8
    )
    links = np.exp(random.normal(0, 0.2, num_clients))
    return [
        SimulatedClient(
            Client(str(i), int(examples[i])),
            float(seconds[i]),
            float(DOWNLOAD_BYTES_PER_SECOND * links[i]),
            float(UPLOAD_BYTES_PER_SECOND * links[i]),
        )
        for i in range(num_clients)
    ]
