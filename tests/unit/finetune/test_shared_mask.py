"""Masks that all clients share: whose turn it is, what crosses, what a sum or noise is of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import PayloadError
from finetune.sparsity.client import SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.server import SparseServer
from finetune.sparsity.shared_mask import SharedMask, shared_positions
from finetune.trust.config import TrustConfig
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Update

A, B = "layer.lora_A.weight", "layer.lora_B.weight"
START = {
    B: np.linspace(1, 2, 14, dtype=np.float32).reshape(7, 2),
    A: np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8),
}
LAYOUT = Layout.of(START)
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "most_epsilon": 100.0}


def config(**changes):
    """Return a configuration of 1/4 up under a shared mask, with some keys changed."""
    content = {"download_density": 1, "upload_density": 0.25, "mask": "shared"} | changes
    return SparsityConfig.model_validate(content)


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0.3, 1))
def test_everyone_has_a_turn_before_anyone_has_two(length, share, decay):
    """In order of the rounds, entries come in one order round the circle, whatever the densities."""
    settings = config(upload_density=share, upload_decay=decay, decay_every_rounds=2)
    counts = np.zeros(length, int)
    for number in range(1, 8):
        positions = shared_positions(length, settings, round_number=number)
        assert len(set(positions.tolist())) == len(positions) >= 1
        assert (np.diff(positions) > 0).all()
        counts[positions] += 1
        assert counts.max() - counts.min() <= 1


def trained(tensors):
    """Add a number of its own to each entry."""
    steps = LAYOUT.tensors(np.arange(1, LAYOUT.length + 1, dtype=np.float32))
    return {name: tensor + steps[name] for name, tensor in tensors.items()}, 1.0


@pytest.mark.parametrize("values", ["float32", "int8"])
def test_no_position_crosses_and_the_server_knows_where_the_values_belong(values):
    """A quarter of the entries moved, those of the mask; the message is values and its header."""
    settings = config(upload_values=values)
    server, clients = SparseServer(LAYOUT, settings), SparseClients(LAYOUT, settings)
    parcel = server.send(START, [2], round_number=3)[2]
    upload, _ = clients.answer("x", parcel, trained)
    content = server.content_of(upload, is_upload=True)
    assert (content.encoding, content.index_bytes) == ("dense", 0)
    change = LAYOUT.flat(server.receive(2, upload)) - LAYOUT.flat(START)
    positions = shared_positions(30, settings, round_number=3)
    expected = np.zeros(30)
    expected[positions] = positions + 1
    np.testing.assert_allclose(change, expected, atol=1e-5 if values == "float32" else 0.2)


def test_weights_in_place_of_changes_are_refused():
    """A reply that says it holds weights would set every entry outside the mask to zero."""
    server, clients = SparseServer(LAYOUT, config()), SparseClients(LAYOUT, config())
    parcel = server.send(START, [2], round_number=1)[2]
    upload, _ = clients.answer("x", parcel, trained)
    with pytest.raises(PayloadError, match="changes of a shared mask are asked for"):
        server.receive(2, Parcel(upload.data, {"is_whole": 1}))


def test_what_waits_for_its_turn_is_kept():
    """With error feedback everything sent plus what is left over is the sum of all changes."""
    settings = config(error_feedback={})
    server, clients = SparseServer(LAYOUT, settings), SparseClients(LAYOUT, settings)
    sent = np.zeros(30)
    for number in range(1, 6):
        parcel = server.send(START, [2], round_number=number)[2]
        upload, _ = clients.answer("x", parcel, trained)
        sent += LAYOUT.flat(server.receive(2, upload)) - LAYOUT.flat(START)
    left_over = clients.states["x"].residual.vector
    np.testing.assert_allclose(sent + left_over, 5 * np.arange(1, 31), rtol=1e-5)


def test_a_secure_sum_gets_what_a_parcel_would_have_carried():
    """The same values in the same order, and the same residual."""
    settings = config(error_feedback={})
    server = SparseServer(LAYOUT, settings)
    one, other = SparseClients(LAYOUT, settings), SparseClients(LAYOUT, settings)
    mask = SharedMask(settings)
    for number in (1, 2):
        parcel = server.send(START, [2], round_number=number)[2]
        upload, _ = one.answer("x", parcel, trained)
        values, _ = other.shared_change("x", parcel, trained)
        received = server.receive(2, upload)
        assert len(values) == mask.num_entries(START, round_number=number) == 7
        for name, change in mask.spread(values, START, round_number=number).items():
            np.testing.assert_allclose(START[name] + change, received[name], rtol=1e-6)
        np.testing.assert_allclose(
            one.states["x"].residual.vector, other.states["x"].residual.vector, atol=1e-5
        )


def test_noise_is_added_to_the_mask_alone():
    """Entries that nobody sends stay; a frozen A is in no mask."""
    trust = TrustConfig.model_validate({"privacy": PRIVACY})
    for frozen, num_noisy in ((False, 7), (True, 3)):
        mask = SharedMask(config(), frozen)
        believing = RoundTrust(trust, num_expected=2, mask=mask)
        updates = [Update(name, START, 1, 1.0, 0) for name in "xy"]
        (one,) = believing.believed(updates, start=START, round_number=2)
        moved = {name: one.tensors[name] != START[name] for name in START}
        assert sum(int(entries.sum()) for entries in moved.values()) == num_noisy
        assert moved[A].any() != frozen
        ones = np.ones(num_noisy)
        for name, entries in mask.spread(ones, START, round_number=2).items():
            np.testing.assert_array_equal(entries > 0, moved[name])
