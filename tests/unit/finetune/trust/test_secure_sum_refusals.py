"""Secure sums against servers, clients and networks that do not keep to the protocol."""

import hashlib
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from secure_sessions import GRID, HEAD_BYTES, SESSION, Session

from finetune.errors import SecureSumError
from finetune.trust.secure_sum import messages
from finetune.trust.secure_sum.client import SecureSumClient
from finetune.trust.secure_sum.messages import Kind
from finetune.trust.secure_sum.shamir import PRIME, SHARE_BYTES, reconstruct, right_shares, share


def survivors(session, client, alive):
    """Return a list of survivors as a server would send it to one client."""
    body = messages.pack_clients(alive)
    return messages.pack(Kind.SURVIVORS, SESSION, client, body)


def test_a_client_answers_one_list_of_survivors_only():
    """A second list, in which a peer is said to be lost, gets nothing: one kind of share a peer."""
    session = Session(4, threshold=3)
    session.until(Kind.REVEALED)
    session.clients[1].reveal(survivors(session, 1, {1, 2, 3, 4}))
    with pytest.raises(SecureSumError, match="SURVIVORS is not awaited now"):
        session.clients[1].reveal(survivors(session, 1, {1, 2, 3}))


def test_a_server_that_tells_two_stories_gets_neither_secret_in_full():
    """Half of the clients are told that client 4 is lost: each of its secrets lacks a share."""
    session = Session(4, threshold=3)
    session.until(Kind.REVEALED)
    revealed = {
        client: messages.unpack_table(
            session.clients[client].reveal(survivors(session, client, alive))[HEAD_BYTES:],
            value_bytes=SHARE_BYTES,
        )[4]
        for client, alive in {
            1: {1, 2, 3},
            2: {1, 2, 3},
            3: {1, 2, 3, 4},
            4: {1, 2, 3, 4},
        }.items()
    }
    secret = session.clients[4]._masking.private_bytes_raw()
    for holders in ((1, 2), (3, 4), (1, 2, 3), (1, 2, 3, 4)):
        try:
            found = reconstruct({holder: revealed[holder] for holder in holders})
        except ValueError:
            continue
        assert found != secret


@pytest.mark.parametrize(("num_clients", "threshold"), [(3, 2), (4, 3)])
def test_no_set_of_lists_lets_one_client_be_seen_alone(num_clients, threshold):
    """Over all lists that a lying server can send: one client is never all that is unmasked.

    That would take `threshold` shares of its own mask, and of every other client's mask key.
    """
    clients = range(num_clients)
    choices = [
        [
            set(alive)
            for size in range(threshold, num_clients + 1)
            for alive in itertools.combinations(clients, size)
            if client in alive
        ]
        for client in clients
    ]
    for lists in itertools.product(*choices):
        times_alive = [sum(peer in alive for alive in lists) for peer in clients]
        for victim in clients:
            others = [times for peer, times in enumerate(times_alive) if peer != victim]
            assert not (
                times_alive[victim] >= threshold
                and all(num_clients - times >= threshold for times in others)
            )


@pytest.mark.parametrize(
    ("alive", "words"),
    [
        ({1, 2}, "2 clients are left, 3 are needed"),
        ({2, 3, 4}, "lacks us"),
        ({1, 2, 3, 9}, "names a client that shared no keys"),
    ],
)
def test_a_list_of_survivors_that_asks_too_much_is_refused(alive, words):
    """Too short, without us, or with a stranger: nothing is revealed, and not later either."""
    session = Session(4, threshold=3)
    session.until(Kind.REVEALED)
    with pytest.raises(SecureSumError, match=words):
        session.clients[1].reveal(survivors(session, 1, alive))
    with pytest.raises(SecureSumError, match="not awaited"):
        session.clients[1].reveal(survivors(session, 1, {1, 2, 3, 4}))


def roster(session, change):
    """Return the roster that client 1 gets, its rows changed."""
    message = session.until(Kind.SHARES)[1]
    rows = messages.unpack_table(message[HEAD_BYTES:], value_bytes=messages.PUBLIC_KEYS_BYTES)
    change(rows)
    return messages.pack(Kind.ROSTER, SESSION, 1, messages.pack_table(rows))


def swap_keys(rows):
    """Give client 2 the keys of a stranger, signed by the stranger."""
    stranger = SecureSumClient(
        2, session=SESSION, threshold=2, grid=GRID, **signed_alone(Ed25519PrivateKey.generate())
    )
    rows[2] = stranger.advertise()[HEAD_BYTES:]


def signed_alone(signing):
    """Return arguments of a client that nobody else knows."""
    return {"signing": signing, "directory": {2: signing.public_key().public_bytes_raw()}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_keys, "keys of client 2 are not signed by that client"),
        (lambda rows: rows.update({7: rows.pop(4)}), "keys of client 7 are not signed"),
        (lambda rows: rows.update({2: rows[3]}), "keys of client 2 are not signed"),
        (lambda rows: rows.update({1: rows[3]}), "other keys for us"),
        (lambda rows: [rows.pop(client) for client in (2, 3)], "2 clients sent their keys, 3"),
    ],
)
def test_a_roster_that_the_server_made_up_is_refused(change, words):
    """Keys of strangers, moved keys, invented clients, too few: no secret is shared."""
    session = Session(4, threshold=3)
    message = roster(session, change)
    with pytest.raises(SecureSumError, match=words):
        session.clients[1].share_keys(message)


def test_a_threshold_that_is_no_majority_is_refused_by_clients_too():
    """A server may be told another threshold; the client's own decides."""
    session = Session(4, threshold=3)
    session.clients[1]._threshold = 2
    with pytest.raises(SecureSumError, match="threshold 2 is no majority of 4 clients"):
        session.clients[1].share_keys(roster(session, lambda rows: None))


def test_more_clients_than_the_grid_has_room_for_are_refused():
    """Their sum could overflow and come out wrong."""
    session = Session(4, threshold=3)
    object.__setattr__(session.grid, "num_clients", 3)
    with pytest.raises(SecureSumError, match="4 clients, the grid has room for 3"):
        session.clients[1].share_keys(roster(session, lambda rows: None))


@given(flipped=st.integers(0, 10_000))
def test_a_share_changed_on_the_way_is_refused(flipped):
    """Any bit of any sealed share: the client stops and sends no values."""
    session = Session(3, threshold=2)
    inbox = bytearray(session.until(Kind.MASKED)[1])
    start = HEAD_BYTES + 4  # behind the first sender's number
    bit = flipped % (8 * messages.SEALED_BYTES)
    inbox[start + bit // 8] ^= 1 << bit % 8
    with pytest.raises(SecureSumError, match="changed on the way"):
        session.clients[1].masked_input(bytes(inbox), session.values[1])


def test_shares_are_not_taken_from_one_peer_as_anothers():
    """Two senders swapped in the inbox: neither share opens."""
    session = Session(3, threshold=2)
    message = session.until(Kind.MASKED)[1]
    rows = messages.unpack_table(message[HEAD_BYTES:], value_bytes=messages.SEALED_BYTES)
    body = messages.pack_table({2: rows[3], 3: rows[2]})
    with pytest.raises(SecureSumError, match="changed on the way"):
        session.clients[1].masked_input(
            messages.pack(Kind.INBOX, SESSION, 1, body), session.values[1]
        )


def test_a_client_takes_nothing_twice_and_nothing_out_of_turn():
    """Each step happens once, in order; another client's or session's message is refused."""
    session = Session(3, threshold=2)
    replies = session.until(Kind.SHARES)
    client = session.clients[1]
    with pytest.raises(SecureSumError, match="keys were sent already"):
        client.advertise()
    with pytest.raises(SecureSumError, match="is of client 2, not 1"):
        client.share_keys(replies[2])
    with pytest.raises(SecureSumError, match="another session"):
        client.share_keys(replies[1].replace(SESSION, b"a former session"))
    with pytest.raises(SecureSumError, match=r"kind 2, SURVIVORS \(6\) is awaited"):
        client.reveal(replies[1])
    client.share_keys(replies[1])
    with pytest.raises(SecureSumError, match="ROSTER is not awaited now"):
        client.share_keys(replies[1])


def test_the_server_refuses_what_does_not_belong_and_goes_on():
    """Replayed, foreign, cut or late messages change nothing: the sum comes out right."""
    session = Session(3, threshold=2)
    sent = session.answers(Kind.KEYS, {})
    server = session.server
    server.receive(1, sent[1])
    for client, message, words in (
        (1, sent[1], "client 1 answered already"),
        (2, sent[1], "is of client 1, not 2"),
        (2, sent[2][:9], "cut short"),
        (2, sent[2][:-1], "no|not two signed"),
        (2, sent[2].replace(SESSION, b"a former session"), "another session"),
        (9, messages.pack(Kind.KEYS, SESSION, 9, sent[1][HEAD_BYTES:]), "not in this stage"),
    ):
        with pytest.raises(SecureSumError, match=words):
            server.receive(client, message)
    for client in (2, 3):
        server.receive(client, sent[client])
    replies = server.advance()
    with pytest.raises(SecureSumError, match="kind 1, SHARES"):
        server.receive(1, sent[1])
    for kind in (Kind.SHARES, Kind.MASKED, Kind.REVEALED):
        for client, message in session.answers(kind, replies).items():
            with pytest.raises(SecureSumError):
                server.receive(client, message[:-1])
            server.receive(client, message)
        replies = server.advance()
    total, _ = server.total()
    np.testing.assert_allclose(total, sum(session.values.values()), atol=1e-6)
    with pytest.raises(SecureSumError, match="session is over"):
        server.receive(1, sent[1])


def with_a_liar(num_clients, *, lost, liar=2):
    """Return a session of threshold 2 or 3, at its end; one holder's shares of client 1 are zeros."""
    session = Session(num_clients, threshold=num_clients // 2 + 1)
    replies = session.until(Kind.REVEALED, {"MASKED": lost})
    for client, message in session.answers(Kind.REVEALED, replies).items():
        rows = messages.unpack_table(message[HEAD_BYTES:], value_bytes=SHARE_BYTES)
        if client == liar:
            rows[1] = bytes(SHARE_BYTES)
        body = messages.pack_table(rows)
        session.server.receive(client, messages.pack(Kind.REVEALED, SESSION, client, body))
    session.server.advance()
    return session


@pytest.mark.parametrize(("num_clients", "lost"), [(3, set()), (5, set()), (5, {1})])
def test_a_false_share_is_left_out_and_its_holder_named(num_clients, lost, caplog):
    """Where more shares are there than needed, the others give the sum."""
    session = with_a_liar(num_clients, lost=lost)
    total, survivors = session.server.total()
    expected = sum(session.values[client] for client in survivors)
    np.testing.assert_allclose(total, expected, atol=1e-6)
    assert survivors == set(session.values) - lost
    assert dict(session.server.false_shares) == {2: 1}
    assert "false share left out client=2 of=\"client 1's" in caplog.text


@pytest.mark.parametrize(
    ("num_clients", "lost", "words"),
    [(2, set(), "client 1's mask are wrong"), (3, {1}, "client 1's key are wrong")],
)
def test_a_lying_holder_of_shares_cannot_change_the_sum_unseen(num_clients, lost, words):
    """With no share to spare, the commitment or the public key shows that one is false."""
    session = with_a_liar(num_clients, lost=lost)
    with pytest.raises(SecureSumError, match=words):
        session.server.total()


@given(
    num_holders=st.integers(3, 9),
    liars=st.sets(st.integers(1, 9), max_size=3),
    secret=st.binary(min_size=32, max_size=32),
)
def test_right_shares_are_found_among_false_ones(num_holders, liars, secret):
    """Whoever lies, as long as a threshold of honest holders is there, and each liar is named."""
    threshold = num_holders // 2 + 1
    shares = share(secret, points=range(1, num_holders + 1), threshold=threshold)
    liars &= shares.keys()
    changed = dict(shares)
    for one in liars:
        error = int.from_bytes(hashlib.sha256(bytes([one])).digest(), "big")
        value = (int.from_bytes(shares[one], "big") + error) % PRIME
        changed[one] = value.to_bytes(SHARE_BYTES, "big")
    found = right_shares(changed, threshold, secret.__eq__)
    if num_holders - len(liars) < threshold:
        assert found is None
    else:
        assert found == (secret, sorted(liars))


def test_there_is_no_sum_before_the_end():
    """While a stage is open the total is refused."""
    session = Session(3, threshold=2)
    session.until(Kind.REVEALED)
    with pytest.raises(SecureSumError, match="close every stage first"):
        session.server.total()


@given(noise=st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused_and_nothing_else_happens(noise):
    """Whatever stands in a message, the one failure is the protocol's own."""
    session = Session(2, threshold=2)
    replies = session.until(Kind.SHARES)
    for message in (noise, replies[1][:HEAD_BYTES] + noise):
        with pytest.raises(SecureSumError):
            session.clients[1].share_keys(message)
    with pytest.raises(SecureSumError):
        session.server.receive(1, messages.pack(Kind.SHARES, SESSION, 1, noise))
