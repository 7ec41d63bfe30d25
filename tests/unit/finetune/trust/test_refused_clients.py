"""Clients that are refused, from their reply over the round to their next message."""

import logging

import numpy as np

from finetune.flower import GridClients, make_client_app
from finetune.in_process_grid import InProcessGrid
from finetune.rounds import FederationState, RoundRecord, run_rounds
from finetune.run_folder import RunFolder
from finetune.trust.checks import Checks
from finetune.trust.identity import BaseIdentity
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Evaluation, Refusal

OURS = BaseIdentity(b"w" * 32, b"t" * 32, b"c" * 32)
OTHERS = {
    "other-weights": BaseIdentity(b"x" * 32, OURS.tokenizer, OURS.template),
    "other-tokenizer": BaseIdentity(OURS.weights, b"x" * 32, OURS.template),
    "other-template": BaseIdentity(OURS.weights, OURS.tokenizer, b"x" * 32),
}
START = {"a": np.zeros((1, 2), np.float32)}


class Trainer:
    """Adds one to every tensor, or sends NaN."""

    num_examples = 1

    def __init__(self, *, sends_nan=False):
        self.sends_nan = sends_nan

    def train(self, tensors, *, round_number):
        step = np.float32(np.nan if self.sends_nan else 1)
        return {name: tensor + step for name, tensor in tensors.items()}, 1.0

    def evaluate(self, tensors):
        return 1.0, 1


def clients_of(trainers):
    """Return the clients, each with the base model its name says."""
    app = make_client_app(trainers.__getitem__, identity_of=lambda client: OTHERS.get(client, OURS))
    nodes = {number: {"client": name} for number, name in enumerate(trainers, start=2)}
    return GridClients(InProcessGrid(app, nodes))


def state():
    """Return a state before the first round."""
    return FederationState(0, START, (Evaluation("sound", 2.0, 50),))


def test_every_refused_client_learns_why_and_the_job_goes_on(caplog):
    """Another base model, tokenizer or template, or NaN: logged at the client, in its next round."""
    trainers = {name: Trainer() for name in ("sound", *OTHERS)} | {"nan": Trainer(sends_nan=True)}
    records = []
    trust = RoundTrust(checks=Checks(identity=OURS))
    with caplog.at_level(logging.WARNING, logger="finetune.declarations"):
        after = run_rounds(
            state(),
            clients_of(trainers),
            num_rounds=2,
            save=lambda _, record: records.append(record),
            trust=trust,
        )
    np.testing.assert_array_equal(after.tensors["a"], [[2, 2]])
    assert after.num_refused == 8
    assert records[0].refused.keys() == {*OTHERS, "nan"}
    told = [r.getMessage() for r in caplog.records if r.name == "finetune.declarations"]
    assert sorted(told) == sorted(
        f"server refused the last reply client={client} reason={reason!r}"
        for client, reason in records[0].refused.items()
    )


def test_reasons_that_were_not_told_survive_a_stop(tmp_path, caplog):
    """Saved with the round, they are told by the process that goes on."""
    run = RunFolder(tmp_path)
    refusal = Refusal("nan", "a holds NaN or infinity", 7, node_id=2)
    saved = FederationState(1, START, (Evaluation("nan", 2.0, 50),), 1, refusals=(refusal,))
    run.append_metrics(RoundRecord(1, {}, {"nan": refusal.reason}, 0, 7, 0.0))
    run.save(saved, base_weights_sha256="00")
    loaded = run.load(base_weights_sha256="00")
    assert loaded.refusals == (refusal,)
    clients = clients_of({"nan": Trainer()})
    clients.tell(loaded.refusals)
    clients.evaluate(START)
    assert "client=nan reason='a holds NaN or infinity'" in caplog.text
