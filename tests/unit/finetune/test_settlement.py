"""Each upload counts once, whoever is killed when: a client's disk against the server's receipts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.aggregation import FEDAVG
from finetune.errors import ClientStateError, PayloadError
from finetune.seeded import EVERYTHING_CROSSES
from finetune.sparsity.client import ClientState
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.ends import ServerEnd, first_copy
from finetune.sparsity.feedback import Residual
from finetune.sparsity.kept_clients import KeptClients, StateFolder
from finetune.sparsity.layout import Layout
from finetune.sparsity.memory import from_parts, to_parts
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.settlement import (
    NO_RECEIPT,
    RECEIPT_FACT,
    Attempt,
    Standing,
    settled,
    upload_number,
)
from finetune.updates import Update
from finetune.wire.message import decode

START = {"lora_A": np.ones((2, 6), np.float32), "lora_B": np.zeros((5, 2), np.float32)}
LAYOUT = Layout.of(START)
CLIENTS = ("north", "south")
SETTINGS = {
    "weights": {"download_density": 1.0, "upload_density": 0.25, "error_feedback": {}},
    "change": {
        "download_density": 0.5,
        "upload_density": 0.25,
        "download": "change",
        "error_feedback": {},
    },
}


class Killed(BaseException):
    """The process ended here."""


class MortalFolder(StateFolder):
    """A folder whose process is killed around a write."""

    killed = None

    def save(self, client, standing):
        if self.killed == "before the write":
            raise Killed
        super().save(client, standing)
        if self.killed == "after the write":
            raise Killed


class Federation:
    """A server that checkpoints each round and two clients on disk; it keeps a book of uploads."""

    def __init__(self, folder, settings):
        self.settings = SparsityConfig.model_validate(settings)
        self.folder = MortalFolder(folder)
        self.folder.prepare()
        self.generator = np.random.default_rng(7)
        self.change, self.left, self.sent, self.used = {}, {}, {}, {}
        self.taken = {name: [] for name in CLIENTS}
        self.checkpoints = []
        self.restart()
        self.save()

    def restart(self, *, rounds_back=0):
        """Begin the server anew from a checkpoint; the clients' disks stay."""
        self.end = ServerEnd(START, self.settings)
        self.tensors, self.completed = START, 0
        if self.checkpoints:
            del self.checkpoints[max(1, len(self.checkpoints) - rounds_back) :]
            header, arrays, self.tensors, self.completed, taken = self.checkpoints[-1]
            self.end.restore(from_parts(header, arrays))
            self.taken = {name: list(numbers) for name, numbers in taken.items()}

    def save(self):
        taken = {name: list(numbers) for name, numbers in self.taken.items()}
        self.checkpoints.append((*to_parts(self.end.memory), self.tensors, self.completed, taken))

    def round(self, fates):
        """Run a round; `fates` says what happens to each client."""
        number = self.completed + 1
        present = [n for n, name in enumerate(CLIENTS) if fates[name] != "away"]
        parcels = self.end.server.send(self.tensors, present, round_number=number)
        updates = []
        for node, parcel in parcels.items():
            name = CLIENTS[node]
            upload = self.answer(name, parcel, fates[name])
            if upload is not None and fates[name] != "late":
                updates.append(Update(name, self.end.server.receive(node, upload), 1, 1.0, 0))
                self.taken[name].append(upload_number(upload.data, round_number=number))
        self.end.server.end_round()
        if updates:
            self.tensors, _ = FEDAVG.combine(updates, like=self.tensors, round_number=number)
        self.completed = number

    def answer(self, name, parcel, fate):
        """Let a client answer; note in the book what its upload was made of."""
        changes = []

        def train(tensors):
            change = self.generator.normal(size=LAYOUT.length).astype(np.float32)
            trained = LAYOUT.flat(tensors) + change
            changes.append(trained - LAYOUT.flat(tensors))
            return LAYOUT.tensors(trained), 1.0

        self.folder.killed = fate
        client = KeptClients(
            LAYOUT,
            self.settings,
            self.folder,
            first=first_copy(LAYOUT, START, self.settings),
            seeded=EVERYTHING_CROSSES,
        )
        try:
            upload, _ = client.answer(name, parcel, train)
        except (Killed, PayloadError):
            return None
        attempt = self.folder.load(name).attempt
        number, receipt = attempt.number, parcel.facts[RECEIPT_FACT]
        self.change[number] = changes[0]
        self.sent[number] = decode(upload.data, length=LAYOUT.length)
        self.left[number] = attempt.state.residual.vector
        self.used[number] = self.sent[number] + self.left[number] - self.change[number]
        self.expect_use(receipt, self.used[number])
        return upload

    def expect_use(self, receipt, used):
        """What went into an upload beside its change is what the last one taken left over."""
        expected = 0.0 if receipt == NO_RECEIPT else self.left[receipt]
        np.testing.assert_allclose(used, np.broadcast_to(expected, used.shape), atol=1e-5)

    def account(self):
        """All that was taken of a client, and what the last of it left over, is all it changed."""
        for name in CLIENTS:
            taken = self.taken[name]
            assert len(set(taken)) == len(taken)
            if taken:
                sent = sum(self.sent[number] for number in taken) + self.left[taken[-1]]
                np.testing.assert_allclose(
                    sent, sum(self.change[number] for number in taken), atol=1e-4
                )
                held = settled(self.folder.load(name), taken[-1]).state.residual
                np.testing.assert_array_equal(held.vector, self.left[taken[-1]])


FATES = st.sampled_from(["taken", "late", "before the write", "after the write", "away"])
ROUNDS = st.lists(
    st.tuples(FATES, FATES, st.sampled_from(["goes on", "killed", "killed after the save"])),
    min_size=1,
    max_size=7,
)


@pytest.mark.parametrize("kind", SETTINGS)
@given(rounds=ROUNDS)
def test_every_residual_is_used_once_whoever_is_killed(kind, rounds, tmp_path_factory):
    """Clients killed around their write, late or away, the server killed around its: sums come out."""
    federation = Federation(tmp_path_factory.mktemp("state"), SETTINGS[kind])
    for north, south, server in rounds:
        federation.round({"north": north, "south": south})
        if server != "killed":
            federation.save()
        if server != "goes on":
            federation.restart()
    federation.account()


def test_a_server_set_back_by_two_rounds_is_answered_without_a_residual(tmp_path):
    """A part of what was left over may be in its adapter; the round after goes on from there."""
    federation = Federation(tmp_path, SETTINGS["weights"])
    everybody = dict.fromkeys(CLIENTS, "taken")
    for _ in range(4):
        federation.round(everybody)
        federation.save()
    federation.restart(rounds_back=2)
    assert federation.completed == 2
    used = []
    federation.expect_use = lambda receipt, vector: used.append(np.abs(vector).max())
    federation.round(everybody)
    assert max(used) < 1e-6
    federation.save()
    del federation.expect_use
    federation.round(everybody)
    assert federation.completed == 4


def test_the_seeded_first_adapter_is_not_sent_and_a_client_without_its_copy_is(tmp_path):
    """Nothing whole in round 1; a client whose disk was lost is refused once, then sent all."""
    federation = Federation(tmp_path, SETTINGS["change"])
    wholes = []
    send = federation.end.server.send

    def noting(*words, **keys):
        parcels = send(*words, **keys)
        wholes.append([parcel.is_whole for parcel in parcels.values()])
        return parcels

    federation.end.server.send = noting
    federation.expect_use = lambda receipt, vector: None
    everybody = dict.fromkeys(CLIENTS, "taken")
    federation.round(everybody)
    federation.round(everybody)
    (tmp_path / "north.safetensors").unlink()
    for _ in range(3):
        federation.round(everybody)
    assert wholes == [[False, False]] * 3 + [[True, False], [False, False]]


def test_a_new_run_finds_what_an_earlier_run_of_its_name_left(tmp_path):
    """Neither copy nor residual of the earlier one enters; the seeded first adapter is taken."""
    earlier = Federation(tmp_path, SETTINGS["change"])
    for _ in range(3):
        earlier.round(dict.fromkeys(CLIENTS, "taken"))
    later = Federation(tmp_path, SETTINGS["change"])
    later.round(dict.fromkeys(CLIENTS, "taken"))
    assert [len(numbers) for numbers in later.taken.values()] == [1, 1]


def residual(value):
    """Return a state whose residual is one number."""
    return ClientState(residual=Residual(np.full(3, value, np.float32), 1, 0))


@pytest.mark.parametrize(
    ("receipt", "value"),
    [
        pytest.param(22, 2.0, id="the attempt was taken"),
        pytest.param(11, 1.0, id="the attempt was not taken"),
        pytest.param(33, None, id="another history"),
        pytest.param(NO_RECEIPT, None, id="a new run"),
    ],
)
def test_a_receipt_settles_the_open_attempt(receipt, value):
    """What the named upload left over is the residual; nothing of an unknown one is."""
    standing = settled(Standing(residual(1.0), 11, Attempt(22, residual(2.0))), receipt)
    assert standing.attempt is None
    assert standing.receipt == receipt
    found = standing.state.residual
    assert (None if found is None else found.vector[0]) == value
    assert settled(standing, receipt) == standing


def test_an_uploads_number_tells_rounds_and_bytes_apart_and_fits_a_signed_integer():
    """Equal bytes of another round are another upload; none has the number of no receipt."""
    numbers = {upload_number(data, round_number=r) for data in (b"a", b"b") for r in (1, 2)}
    assert len(numbers) == 4
    assert all(NO_RECEIPT < number < 1 << 56 for number in numbers)


def test_a_damaged_file_counts_as_none_and_is_told(tmp_path, caplog):
    """The server's receipt then shows that something is missing."""
    (tmp_path / "north.safetensors").write_bytes(b"half a file")
    assert StateFolder(tmp_path).load("north") is None
    assert "state is damaged" in caplog.text


def test_state_is_for_its_user_alone_and_a_folder_that_cannot_be_is_told(tmp_path, caplog):
    """Made with mode 0700; one that is there keeps its mode, with a warning if others can read it."""
    StateFolder(tmp_path / "new").prepare()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert not caplog.records
    (tmp_path / "open").mkdir(mode=0o755)
    StateFolder(tmp_path / "open").prepare()
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o755
    assert "can be read by other users" in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(ClientStateError, match="choose another folder with --state"):
        StateFolder(tmp_path / "file" / "below").prepare()


def test_a_download_without_a_receipt_is_refused(tmp_path):
    """A server that does not say what it took cannot be answered exactly once."""
    federation = Federation(tmp_path, SETTINGS["weights"])
    (parcel,) = federation.end.server.send(START, [0], round_number=1).values()
    facts = {name: value for name, value in parcel.facts.items() if name != RECEIPT_FACT}
    client = KeptClients(
        LAYOUT, federation.settings, federation.folder, first=None, seeded=EVERYTHING_CROSSES
    )
    with pytest.raises(PayloadError, match="comes without 'receipt'"):
        client.answer("north", Parcel(parcel.data, facts), lambda tensors: (tensors, 1.0))
