"""A scheduler driven over a grid: clients that are slow, silent, broken, away, or come again."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.aggregation import FEDAVG
from finetune.config import JobConfig
from finetune.declarations import REFUSED_KEY
from finetune.deployment.grid_clients import DeployedClients
from finetune.deployment.grid_workers import reach_of
from finetune.errors import RoundError
from finetune.flower import make_client_app
from finetune.in_process_grid import InProcessGrid
from finetune.patience import Patience
from finetune.rounds import FederationState
from finetune.scheduled_rounds.scheduled_job import run_schedule
from finetune.scheduling.documents import from_document
from finetune.trust.checks import FORM_ONLY
from finetune.trust.config import TrustConfig
from finetune.trust.round_trust import CHECKS_ONLY, RoundTrust

START = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((3, 2), np.float32)}
BASE = "5" * 64
NAMES = {2: "one", 3: "two", 4: "three"}
ANSWER_SECONDS = 30


class Adding:
    """Adds one for each step, unless told to send something else; notes what it was asked."""

    num_examples = 4

    def __init__(self):
        self.value, self.asked = 1.0, []

    def train(self, tensors, *, round_number, num_steps=1):
        self.asked.append((round_number, num_steps, float(tensors["a"][0, 0])))
        value = np.float32(self.value * num_steps)
        return {name: tensor + value for name, tensor in tensors.items()}, 1.0


class Network(InProcessGrid):
    """A grid whose replies come some seconds later, or never; time passes when somebody sleeps."""

    def __init__(self, trainers, calls=None):
        self.now, self.seconds = 100.0, dict.fromkeys(NAMES, 1.0)
        self.silent, self.away, self.sent, self.due = set(), set(), [], {}
        self.at = {}
        calls = calls or {}
        nodes = {number: {"client": calls.get(name, name)} for number, name in NAMES.items()}
        super().__init__(make_client_app(trainers.__getitem__), nodes)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for at in [at for at in self.at if at <= self.now]:
            self.at.pop(at)()

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node not in self.away]

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += messages
        ids = super().push_messages(messages)
        for message_id, message in zip(ids, messages, strict=True):
            node = message.metadata.dst_node_id
            is_train = message.metadata.message_type == "train"
            seconds = float("inf") if node in self.silent else self.seconds[node] * is_train
            self.due[message_id] = self.now + seconds
        return ids

    def pull_messages(self, message_ids):
        return super().pull_messages([mid for mid in message_ids if self.due[mid] <= self.now])

    def told(self, node):
        """Return the reasons that messages to a node held."""
        sent = [message for message in self.sent if message.metadata.dst_node_id == node]
        reasons = [message.content["config"].get(REFUSED_KEY) for message in sent]
        return [reason for reason in reasons if reason]


@pytest.fixture
def trainers():
    """Three honest trainers."""
    return {name: Adding() for name in NAMES.values()}


def a_job(scheduling, *, rounds=3):
    """Return a deployed job of the three clients."""
    data = {"kind": "jsonl", "path": "none.jsonl"}
    return JobConfig.model_validate(
        {
            "schema_version": 1,
            "name": "toy",
            "model": "none",
            "rank": 2,
            "alpha": 4,
            "target_modules": ["q_proj"],
            "rounds": rounds,
            "local_steps": 2,
            "batch_size": 2,
            "sequence_tokens": 8,
            "learning_rate": 0.1,
            "held_out_fraction": 0.5,
            "output": "none",
            "clients": [{"name": name, "data": data} for name in NAMES.values()],
            "scheduling": scheduling,
        }
    )


def run(grid, scheduling, *, rounds=3, state=None, saved=None, trust=CHECKS_ONLY):
    """Run a job over a grid; return the last state and the lines of metrics."""
    job, lines = a_job(scheduling, rounds=rounds), []
    patience = Patience(
        answer_seconds=ANSWER_SECONDS,
        connection_seconds=60,
        check=lambda: None,
        clock=grid.clock,
        sleep=grid.sleep,
    )
    clients = DeployedClients(
        grid, NAMES, clients=list(NAMES.values()), base_weights_sha256=BASE, patience=patience
    )

    def save(state, records):
        lines.extend(records)
        if saved is not None:
            saved.append(state)
        return state

    state = run_schedule(
        state or FederationState(0, START, ()),
        reach_of(grid, clients, BASE, patience),
        job=job,
        aggregation=FEDAVG,
        trust=trust,
        save=save,
    )
    return state, lines


def test_a_buffer_makes_versions_of_whoever_answers(trainers):
    """Updates wait for a second one; what waits when the last version is made makes one more."""
    grid = Network(trainers)
    grid.seconds[4] = 2.0
    _, lines = run(grid, {"kind": "fedbuff", "buffer_size": 2})
    assert [line.schedule.version for line in lines] == [1, 2, 3, 4]
    assert len(lines[3].loss) == 1
    assert lines[0].loss.keys() == {"one", "two"}
    assert max(age for line in lines for age in line.schedule.ages.values()) >= 1
    assert all(line.download_bytes > 0 and line.upload_bytes > 0 for line in lines[:3])
    assert not any(line.refused for line in lines)


def test_each_assignment_says_its_steps_and_has_batches_of_its_own(trainers):
    """FedCompass gives the fast more steps; no client is asked for one batch twice."""
    grid = Network(trainers)
    grid.seconds = {2: 1.0, 3: 2.0, 4: 4.0}
    run(grid, {"kind": "fedcompass", "least_steps": 1, "most_steps": 8}, rounds=8)
    for trainer in trainers.values():
        rounds = [round_number for round_number, _, _ in trainer.asked]
        assert rounds == list(range(1, len(rounds) + 1))
    asked = [steps for trainer in trainers.values() for _, steps, _ in trainer.asked]
    assert len(set(asked)) > 1
    assert all(1 <= steps <= 8 for steps in asked)


def test_a_round_is_what_every_clients_average_makes_it(trainers):
    """Synchronous versions are the mean of whole adapters: two steps of one each."""
    state, lines = run(Network(trainers), {"kind": "synchronous"})
    np.testing.assert_array_equal(state.tensors["a"], np.full((2, 3), 6, np.float32))
    assert [line.loss.keys() for line in lines] == [set(NAMES.values())] * 3


def test_a_late_answer_is_left_out_and_counted(trainers):
    """The round ends at its deadline without the slow client, whose answer fits no round."""
    grid = Network(trainers)
    grid.seconds[4] = 7.0
    _, lines = run(grid, {"kind": "synchronous", "round_seconds": 4}, rounds=4)
    assert lines[0].loss.keys() == {"one", "two"}
    late = [line.schedule.discards for line in lines if line.schedule.discards]
    assert late == [{"came after its round had ended": 1}]


def test_a_silent_client_leaves_and_joins_again(trainers):
    """Past its deadline it is let go and told why; when it answers a hello it trains again."""
    grid = Network(trainers)
    grid.seconds = dict.fromkeys(NAMES, 5.0)
    grid.at[101.0] = lambda: grid.silent.add(3)
    grid.at[145.0] = grid.silent.clear
    _, lines = run(grid, {"kind": "fedbuff", "buffer_size": 2}, rounds=20)
    refused = [line.refused for line in lines if line.refused]
    assert refused[0] == {"two": f"gave no answer within {ANSWER_SECONDS} s"}
    assert f"gave no answer within {ANSWER_SECONDS} s" in grid.told(3)
    assert "two" in lines[-1].loss.keys() | lines[-2].loss.keys()


def test_a_client_that_is_refused_again_and_again_is_left_out(trainers):
    """After three updates with NaN the others go on without it; each was counted, and it was told."""
    grid = Network(trainers)
    trainers["two"].value = float("nan")
    state, lines = run(grid, {"kind": "fedbuff", "buffer_size": 2}, rounds=8)
    assert state.num_refused == 3
    assert len(trainers["two"].asked) == 3
    assert all("two" not in line.loss for line in lines)
    assert any("holds NaN" in reason for reason in grid.told(3))


def test_a_client_under_anothers_name_is_not_let_in(trainers):
    """Its hello does not fit its key, so it is never asked to train."""
    grid = Network(trainers, calls={"two": "one"})
    _, lines = run(grid, {"kind": "fedbuff", "buffer_size": 2})
    assert {name for line in lines for name in line.loss} == {"one", "three"}
    assert {message.metadata.message_type for message in grid.sent} == {"query", "train"}
    assert not trainers["two"].asked


def test_a_disconnected_client_leaves_and_comes_back(trainers):
    """Its work is lost and counted; as soon as it is connected again it is asked who it is."""
    grid = Network(trainers)
    grid.seconds = dict.fromkeys(NAMES, 4.0)
    grid.at[102.0] = lambda: grid.away.add(4)
    grid.at[110.0] = grid.away.clear
    _, lines = run(grid, {"kind": "synchronous"}, rounds=5)
    assert lines[0].refused == {"three": "is not connected"}
    assert "three" in lines[-1].loss


@pytest.mark.parametrize(
    ("claim", "reason"),
    [(0, "claims 0 examples, 1 to"), (float("nan"), "cannot be decoded")],
)
def test_a_hello_whose_examples_are_not_believed_meets_nobody(trainers, caplog, claim, reason):
    """The others do the job without it."""
    trainers["two"].num_examples = claim
    _, lines = run(Network(trainers), {"kind": "fedbuff", "buffer_size": 2})
    assert {name for line in lines for name in line.loss} == {"one", "three"}
    assert any(
        record.message.startswith("client not met node=3") and reason in record.message
        for record in caplog.records
    )


def test_nobody_left_ends_the_job(trainers):
    """It waits for the connection's patience, then says what to do."""
    grid = Network(trainers)
    grid.at[100.5] = lambda: grid.away.update(NAMES)
    with pytest.raises(RoundError, match="no client takes part any more, for 60 s"):
        run(grid, {"kind": "fedbuff", "buffer_size": 2})


@pytest.mark.parametrize("kind", ["fedbuff", "fedcompass", "synchronous"])
def test_a_run_goes_on_from_any_checkpoint_and_counts_each_answer_once(trainers, kind):
    """What was out is sent again from the version it began with; no number is merged twice."""
    grid, saved = Network(trainers), []
    grid.seconds = {2: 1.0, 3: 2.0, 4: 4.0}
    run(grid, {"kind": kind}, rounds=4, saved=saved)
    assert len(saved) > 4
    for state in saved[:-1]:
        again = {name: Adding() for name in NAMES.values()}
        outstanding = from_document(state.schedule.scheduler).ledger.outstanding.values()
        end, lines = run(Network(again), {"kind": kind}, rounds=4, state=state)
        for one in outstanding:
            start = state.schedule.starts[one.number]["a"][0, 0]
            assert again[one.client].asked[0][1:] == (one.steps, start)
        assert [line.round for line in lines] == list(
            range(state.completed_rounds + 1, end.completed_rounds + 1)
        )
        assert end.completed_rounds >= 4


def test_clients_that_are_not_back_leave(trainers):
    """A run that goes on without one of its clients finishes with the others."""
    saved = []
    run(Network(trainers), {"kind": "fedbuff", "buffer_size": 2}, saved=saved)
    grid = Network(trainers)
    grid.away = {3}
    _, lines = run(grid, {"kind": "fedbuff", "buffer_size": 2}, state=replace(saved[0]))
    assert lines[0].refused == {"two": "is not back"}
    assert lines[-1].schedule.version == 3


def test_a_claim_of_examples_is_capped_in_a_scheduled_job_too(trainers):
    """One that claims a thousand million counts as one that has four, the others' number."""
    trainers["two"].value, trainers["two"].num_examples = 30.0, 10**9
    trust = RoundTrust(TrustConfig(most_examples=4), FORM_ONLY, num_expected=3)
    scheduling = {"kind": "fedbuff", "buffer_size": 3}
    state, _ = run(Network(trainers), scheduling, rounds=1, trust=trust)
    assert state.tensors["a"][0, 0] == pytest.approx(START["a"][0, 0] + (2 + 60 + 2) / 3)


class SlowHello(Network):
    """Clients say who they are only after they have loaded their base model."""

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message_id, message in zip(ids, messages, strict=True):
            if message.metadata.message_type.startswith("query"):
                self.due[message_id] = self.now + 5
        return ids


def test_a_deadline_that_falls_due_before_anybody_is_met_waits(trainers):
    """A resumed run begins no round with clients whose nodes it does not know yet."""
    saved = []
    grid, scheduling = Network(trainers), {"kind": "synchronous", "round_seconds": 4}
    grid.seconds = {2: 1.0, 3: 2.0, 4: 7.0}
    run(grid, scheduling, saved=saved)
    for state in saved[:-1]:
        fresh = {name: Adding() for name in NAMES.values()}
        end, _ = run(SlowHello(fresh), scheduling, state=state)
        assert end.completed_rounds >= 3


def test_nothing_is_sent_twice_where_a_client_is_not_back(trainers):
    """Work that its leaving sets free is sent once, as is what was out before."""
    saved = []
    run(Network(trainers), {"kind": "synchronous"}, saved=saved)
    for state in saved[:-1]:
        fresh = {name: Adding() for name in NAMES.values()}
        grid = Network(fresh)
        grid.away = {4}
        run(grid, {"kind": "synchronous"}, state=state)
        for name in ("one", "two"):
            rounds = [asked for asked, _, _ in fresh[name].asked]
            assert len(rounds) == len(set(rounds))


def test_a_resumed_run_that_nobody_comes_to_ends(trainers):
    """Clients of an earlier process are no company."""
    saved = []
    run(Network(trainers), {"kind": "synchronous"}, saved=saved)
    grid = Network(trainers)
    grid.away = set(NAMES)
    with pytest.raises(RoundError, match="no client takes part any more"):
        run(grid, {"kind": "synchronous"}, state=saved[1])
    assert grid.now < 300
