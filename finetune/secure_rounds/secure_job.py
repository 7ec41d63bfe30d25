"""A job's secure sums in one process: who takes part, with which keys."""

from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from finetune.aggregation import STRATEGIES
from finetune.config import JobConfig
from finetune.flower import GridClients
from finetune.flower_records import Exchange
from finetune.flower_sparse import SparseExchange
from finetune.secure_rounds.collector import SecureClients, SecureJob
from finetune.secure_rounds.member import Membership
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.trust.checks import Checks
from finetune.trust.config import SecureSumConfig
from finetune.trust.privacy import noise
from finetune.trust.secure_sum.fixed_point import FixedPoint


def clients_of(
    grid: Grid,
    job: JobConfig,
    checks: Checks,
    exchange: Exchange | None = None,
    *,
    seeded: Seeded = EVERYTHING_CROSSES,
) -> GridClients:
    """Return the clients behind a grid, as the job's trust lets the server see them.

    Args:
        grid: Flower's.
        job: Says whether the server may see single updates.
        checks: What each client must declare.
        exchange: How adapters travel; None sends them whole.
        seeded: What every client made of the adapter itself.
    """
    secure, privacy = job.trust.secure_sum, job.trust.privacy
    if secure is None:
        return GridClients(grid, exchange, seeded=seeded)
    source = None
    if privacy is not None:
        source = partial(noise, deviation=privacy.clip_norm * privacy.noise_multiplier)
    secure_job = SecureJob(
        numbers_of(job),
        secure.threshold,
        grid_of(job, secure),
        checks,
        source,
        most_examples=job.trust.most_examples,
        mask=job.shared_mask,
        is_down_frozen=STRATEGIES[job.aggregation].is_down_frozen,
    )
    sparse = exchange if isinstance(exchange, SparseExchange) else None
    return SecureClients(grid, secure_job, sparse, seeded=seeded)


def members_of(job: JobConfig) -> dict[str, Membership]:
    """Return what each client knows of the job's secure sums, with signing keys made now.

    Keys of one process prove nothing to each other; between machines each client's public key must
    come with the job.
    """
    secure = job.trust.secure_sum
    if secure is None:
        return {}
    numbers = numbers_of(job)
    keys = {number: Ed25519PrivateKey.generate() for number in numbers.values()}
    directory = {number: key.public_key().public_bytes_raw() for number, key in keys.items()}
    return {
        client: Membership(
            number=number,
            threshold=secure.threshold,
            clip_norm=grid_of(job, secure).most_absolute,
            grid=grid_of(job, secure),
            signing=keys[number],
            directory=directory,
        )
        for client, number in numbers.items()
    }


def numbers_of(job: JobConfig) -> dict[str, int]:
    """Return each client's number, in the job's order."""
    return {client.name: number for number, client in enumerate(job.clients, start=1)}


def grid_of(job: JobConfig, secure: SecureSumConfig) -> FixedPoint:
    """Return the grid for changes no longer than the job lets them be."""
    longest = job.trust.longest_change
    assert longest is not None, "the job's trust was checked to have a bound"
    return FixedPoint(longest, num_clients=len(job.clients), bits=secure.bits)
