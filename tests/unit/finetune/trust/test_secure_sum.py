"""Sums of masked vectors: right with clients lost anywhere, and hidden one by one."""

import numpy as np
import pytest
from secure_sessions import GRID, SESSION, Session

from finetune.errors import SecureSumError
from finetune.trust.secure_sum.client import SecureSumClient
from finetune.trust.secure_sum.fixed_point import FixedPoint
from finetune.trust.secure_sum.keys import mask
from finetune.trust.secure_sum.server import SecureSumServer
from finetune.trust.secure_sum.shamir import PRIME, reconstruct, share


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize(
    "lost",
    [
        {},
        {"SHARES": {2}},
        {"MASKED": {1}},
        {"REVEALED": {3}},
        {"KEYS": {1, 2}},
        {"SHARES": {1, 2}},
        {"MASKED": {1, 5}},
        {"REVEALED": {2, 4}},
        {"SHARES": {4}, "MASKED": {1}},
        {"MASKED": {5}, "REVEALED": {2}},
    ],
)
def test_the_sum_survives_as_many_losses_as_the_threshold_allows(lost, bits):
    """Five clients, three needed: the sum is that of all whose values came, within the bound."""
    session = Session(5, threshold=3, bits=bits)
    total, survivors = session.run(lost)
    gone = lost.get("KEYS", set()) | lost.get("SHARES", set()) | lost.get("MASKED", set())
    assert survivors == {1, 2, 3, 4, 5} - gone
    expected = sum(session.values[client] for client in survivors)
    error = np.abs(total - expected).max()
    assert error <= session.grid.most_error(len(survivors))


@pytest.mark.parametrize("stage", ["KEYS", "SHARES", "MASKED", "REVEALED"])
def test_with_fewer_than_the_threshold_there_is_no_sum(stage, caplog):
    """Three of five lost in any stage: the server stops, and says who was lost."""
    with pytest.raises(SecureSumError, match=f"2 clients sent {stage}, 3 are needed"):
        Session(5, threshold=3).run({stage: {1, 2, 4}})
    assert f"lost clients=[1, 2, 4] stage={stage}" in caplog.text


def test_the_largest_values_of_all_clients_do_not_overflow():
    """Every client at the bound, both signs: the sum is right to the stated error."""
    for sign in (1.0, -1.0):
        for bits in (16, 32):
            session = Session(6, threshold=4, bits=bits)
            session.values = {client: np.full(20, sign * 2.0) for client in session.values}
            total, _ = session.run()
            np.testing.assert_allclose(total, sign * 12.0, atol=session.grid.most_error(6))


def test_what_the_server_gets_of_one_client_is_uniform():
    """Masked zeros pass a chi-square test over 256 byte values, and differ between equal inputs."""
    session = Session(3, threshold=2, num_entries=16384)
    session.values = {client: np.zeros(16384) for client in session.values}
    session.run()
    masked = {client: session.masked(client) for client in session.values}
    for vector in masked.values():
        counts = np.bincount(np.frombuffer(vector.tobytes(), np.uint8), minlength=256)
        expected = counts.sum() / 256
        chi_square = (np.square(counts - expected) / expected).sum()
        assert 255 - 6 * np.sqrt(510) < chi_square < 255 + 6 * np.sqrt(510)
    assert np.mean(masked[1] == masked[2]) < 0.01


def test_the_transcript_fits_any_other_inputs_of_the_same_sum():
    """All that the server may take off leaves masks that explain every split of the total alike.

    After the sum it knows each survivor's own mask. What is left of client u is x_u plus its pair
    masks; for any other inputs with the same sum there are pair masks that give the same remainder,
    bit for bit, so nothing but the sum follows from it.
    """
    session = Session(4, threshold=3)
    session.run()
    grid = session.grid
    left = {
        client: session.masked(client)
        - mask(session.server._own_mask(client), num_entries=20, grid=grid)
        for client in session.values
    }
    inputs = {client: grid.encode(values) for client, values in session.values.items()}
    assert np.array_equal(sum(left.values()), sum(inputs.values()))
    other = dict(inputs)
    shift = grid.encode(np.random.default_rng(4).uniform(-1, 1, 20))
    other[1], other[3] = other[1] + shift, other[3] - shift
    # Pair masks of client 1 with each other client alone are enough for the explanation.
    pair = {client: left[client] - other[client] for client in (2, 3, 4)}
    again = {client: other[client] + pair[client] for client in pair}
    again[1] = other[1] - sum(pair.values())
    for client, remainder in left.items():
        assert np.array_equal(again[client], remainder)


def test_a_vector_that_comes_late_stays_hidden():
    """The server rebuilt the lost client's key; its own mask still covers the late vector."""
    session = Session(4, threshold=3)
    session.run({"MASKED": {2}}, late=True)
    left = session.masked(2)
    key = session.server._mask_key(2)
    for peer in (1, 3, 4):
        left = left - session.pair_mask(key, 2, peer)
    wrong = np.abs(session.grid.decode(left) - session.values[2])
    assert np.median(wrong) > 0.1


def test_fewer_shares_than_the_threshold_say_nothing():
    """Two of three shares fit every secret: for each there is a third share that completes it."""
    secret, other = b"s" * 32, b"o" * 32
    shares = share(secret, points=[1, 2, 3], threshold=3)
    assert reconstruct(shares) == secret
    wanted = int.from_bytes(other, "big")
    first, second = (int.from_bytes(shares[point], "big") for point in (1, 2))
    third = (wanted - 3 * first + 3 * second) % PRIME
    assert reconstruct(shares | {3: third.to_bytes(33, "big")}) == other


def test_any_threshold_of_shares_gives_the_secret():
    """Whichever clients are left, and more of them than needed do no harm."""
    secret = bytes(range(32))
    shares = share(secret, points=[1, 2, 5, 9, 70000], threshold=3)
    for points in ([1, 2, 5], [9, 70000, 1], [2, 5, 9, 70000]):
        assert reconstruct({point: shares[point] for point in points}) == secret


def test_the_prime_is_prime():
    """Miller and Rabin's test with the first forty primes as witnesses."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in [p for p in range(2, 174) if all(p % d for d in range(2, p))]:
        powers = [pow(witness, odd << k, PRIME) for k in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"secret": b"short", "points": [1], "threshold": 1}, "32 bytes, not 5"),
        ({"secret": bytes(32), "points": [1, 1], "threshold": 1}, "different"),
        ({"secret": bytes(32), "points": [0, 1], "threshold": 1}, "from 1 on"),
        ({"secret": bytes(32), "points": [1, 2], "threshold": 3}, "threshold 3 of 2"),
    ],
)
def test_shares_that_cannot_work_are_refused(arguments, words):
    """A point of zero would be the secret itself."""
    with pytest.raises(ValueError, match=words):
        share(arguments.pop("secret"), **arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedPoint(1.0, 40_000, bits=16), "16 bits have no room for 40000"),
        (lambda: FixedPoint(0.0, 3), "must be positive"),
        (lambda: GRID.encode(np.array([2.1])), "above most_absolute 2; clip first"),
        (lambda: GRID.encode(np.array([np.nan])), "an entry is nan"),
        (lambda: server(threshold=2), "give more than half"),
        (lambda: server(threshold=5), "threshold 5 of 4"),
        (lambda: client(threshold=1), "would show one client's values"),
        (lambda: client(directory={}), "does not know client 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    """No room for the sum, values beyond the grid, thresholds that show too much."""
    with pytest.raises(ValueError, match=words):
        make()


def server(*, threshold):
    """Return a server of four clients."""
    return SecureSumServer(
        range(1, 5), session=SESSION, threshold=threshold, grid=GRID, num_entries=3
    )


def client(*, threshold=2, directory=None):
    """Return a client of a session of two."""
    session = Session(2, threshold=2)
    known = session.directory if directory is None else directory
    return SecureSumClient(
        1,
        session=SESSION,
        threshold=threshold,
        grid=GRID,
        signing=session.signing[1],
        directory=known,
    )
