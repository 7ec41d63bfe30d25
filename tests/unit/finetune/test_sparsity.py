"""Which entries are sent, how many, and what is kept of the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from finetune.aggregation import STRATEGIES
from finetune.compatibility import Parts, conflict
from finetune.errors import PayloadError
from finetune.sparsity.client import ClientState, make_upload, read_download
from finetune.sparsity.config import (
    DEFAULT_SPARSITY,
    ErrorFeedback,
    SparsityChoice,
    SparsityConfig,
)
from finetune.sparsity.density import density, num_kept
from finetune.sparsity.feedback import Residual, carried
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.top_k import top_k
from finetune.wire.message import decode, encode

LENGTH = 40
WHOLE_NUMBERS = arrays(np.float32, LENGTH, elements=st.integers(-3, 3).map(float))


def config(**changes):
    """Return a sparse configuration, 1/4 down and 1/8 up, with some keys changed."""
    content = {"download_density": 0.25, "upload_density": 0.125} | changes
    return SparsityConfig.model_validate(content)


def told(round_number, basis=0):
    """Return a download's facts; its vector does not matter."""
    return Parcel(b"", {"round": round_number, "basis": basis})


@given(WHOLE_NUMBERS, st.integers(1, LENGTH))
def test_the_largest_are_kept_and_of_equals_the_first(vector, k):
    """The choice is that of a stable sort by falling magnitude."""
    expected = np.zeros_like(vector)
    first = np.argsort(-np.abs(vector), kind="stable")[:k]
    expected[first] = vector[first]
    np.testing.assert_array_equal(top_k(vector, k), expected)


def test_all_equal_keeps_the_lowest_indices():
    """Ties alone: the first k."""
    assert top_k(np.full(5, -2, np.float32), 3).tolist() == [-2, -2, -2, 0, 0]


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_is_the_callers_mistake(k):
    """There is no top 0, and no top 6 of 5."""
    with pytest.raises(ValueError, match=f"k is {k}; give 1 to 5"):
        top_k(np.ones(5, np.float32), k)


def test_density_falls_geometrically_and_keeps_one_entry():
    """Halved every three rounds; a share too small for one entry still sends one."""
    shares = [density(0.5, decay=0.5, every_rounds=3, round_number=n) for n in range(1, 8)]
    assert shares == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert [num_kept(100, share) for share in (1.0, 0.25, 0.019, 1e-9)] == [100, 25, 1, 1]


def test_a_layout_takes_tensors_apart_and_together():
    """All of A before B, modules of a kind together; another adapter is refused."""
    names = ["0.v.B.weight", "0.v.A.weight", "1.q.A.weight", "0.q.A.weight"]
    tensors = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}
    layout = Layout.of(tensors)
    assert layout.length == 24
    assert layout.flat(tensors)[::6].tolist() == [3, 2, 1, 0]
    again = layout.tensors(layout.flat(tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)
    with pytest.raises(ValueError, match="another adapter"):
        layout.flat({names[0]: tensors[names[0]]})


@pytest.mark.parametrize("value_type", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("share", [1.0, 0.125, 1e-6])
def test_feedback_conserves_the_sum_of_changes(value_type, share):
    """All that was sent, as it was decoded, plus the residual is the sum of all changes."""
    feedback = config(error_feedback={}, upload_density=share, upload_values=value_type)
    generator = np.random.default_rng(0)
    residual, wanted, sent = None, np.zeros(LENGTH), np.zeros(LENGTH)
    for round_number in range(1, 9):
        start = generator.normal(size=LENGTH).astype(np.float32)
        trained = (start + generator.normal(size=LENGTH)).astype(np.float32)
        upload, residual = make_upload(start, trained, residual, feedback, told(round_number))
        vector = decode(upload.data, length=LENGTH).astype(np.float64)
        sent += vector - start if upload.is_whole else vector
        wanted += trained.astype(np.float64) - start
    np.testing.assert_allclose(sent + residual.vector, wanted, atol=1e-5)


def test_without_feedback_nothing_is_remembered():
    """What was not sent is dropped."""
    start, trained = np.zeros(LENGTH, np.float32), np.arange(LENGTH, dtype=np.float32)
    upload, residual = make_upload(start, trained, None, config(), told(1))
    assert residual is None
    np.testing.assert_array_equal(np.flatnonzero(decode(upload.data, length=LENGTH)), range(35, 40))


def test_the_change_is_against_what_was_downloaded():
    """An entry outside the download starts at zero, and the upload's mask may choose it."""
    start = np.zeros(LENGTH, np.float32)
    start[:10] = 5
    trained = start.copy()
    trained[30:35] = [1, -2, 3, -4, 5]
    upload, _ = make_upload(start, trained, None, config(), told(1))
    expected = np.zeros(LENGTH, np.float32)
    expected[30:35] = [1, -2, 3, -4, 5]
    np.testing.assert_array_equal(decode(upload.data, length=LENGTH), expected)
    assert not upload.is_whole


def test_a_residual_fades_with_missed_rounds_and_ends_with_its_basis():
    """Halved for each round missed, kept as it is for none, dropped after a squeeze."""
    residual = Residual(np.ones(LENGTH, np.float32), round_number=3, basis=1)

    def left(round_number, *, basis=1, length=LENGTH):
        kept = carried(residual, length=length, round_number=round_number, basis=basis, decay=0.5)
        return None if kept is None else kept[0]

    assert [left(4), left(5), left(7)] == [1.0, 0.5, 0.125]
    assert left(4, basis=2) is None
    assert left(4, length=LENGTH + 1) is None


def test_feedback_uses_the_configured_decay():
    """A client back after two missed rounds sends a quarter of what was left."""
    feedback = config(error_feedback=ErrorFeedback(decay_per_missed_round=0.5))
    start = np.zeros(LENGTH, np.float32)
    old = Residual(np.eye(1, LENGTH, 7, dtype=np.float32)[0] * 8, round_number=1, basis=0)
    upload, residual = make_upload(start, start, old, feedback, told(4))
    assert decode(upload.data, length=LENGTH)[7] == 2
    assert not residual.vector.any()


def test_training_that_gave_nan_sends_nothing_and_spoils_no_residual():
    """The client's own end refuses; its state stays."""
    start = np.zeros(LENGTH, np.float32)
    with pytest.raises(PayloadError, match="NaN or infinity after training; lower learning_rate"):
        make_upload(start, start * np.nan, None, config(error_feedback={}), told(1))


def test_a_change_of_a_copy_that_is_not_held_is_refused():
    """Another number, another content under the same number, or no copy at all."""
    first = Parcel(encode(np.ones(4, np.float32)), {"is_whole": 1, "copy": 1})
    copy = read_download(first, None, length=4)
    facts = {"is_whole": 0, "copy": 2, "base": 1, "base_checksum": copy.checksum}
    change = encode(np.array([0, 0, 3, 0], np.float32))
    changed = read_download(Parcel(change, facts), copy, length=4)
    assert (changed.number, changed.vector.tolist()) == (2, [1, 1, 4, 1])
    for wrong in ({"base": 7}, {"base_checksum": 7}):
        with pytest.raises(PayloadError, match=r"this client holds (another )?1; send it whole"):
            read_download(Parcel(change, facts | wrong), copy, length=4)
    with pytest.raises(PayloadError, match="this client holds none; send it whole"):
        read_download(Parcel(change, facts), ClientState().copy, length=4)
    with pytest.raises(PayloadError, match="comes without 'base'"):
        read_download(Parcel(change, {"is_whole": 0}), copy, length=4)


def test_a_job_may_ask_for_the_default_by_name():
    """The word stands for the settings themselves, which is what is written beside the run."""
    named = TypeAdapter(SparsityChoice | None)
    assert named.validate_python("default") == DEFAULT_SPARSITY
    assert named.validate_python(DEFAULT_SPARSITY.model_dump(mode="json")) == DEFAULT_SPARSITY
    assert named.validate_python(None) is None
    with pytest.raises(ValidationError, match="SparsityConfig"):
        named.validate_python("none of these")


def test_the_default_goes_with_every_aggregation_but_one():
    """FedSVD turns A each round, and a mask would tear it."""
    assert DEFAULT_SPARSITY.download == "change"
    assert DEFAULT_SPARSITY.error_feedback is not None
    refused = {
        name
        for name, strategy in STRATEGIES.items()
        if conflict(Parts(strategy, DEFAULT_SPARSITY)) is not None
    }
    assert refused == {"fedsvd"}
