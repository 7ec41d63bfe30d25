"""From the name a client sends to the models that may answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from small_predictor import CODE_PROMPT, POEM_PROMPT, small_predictor

from router.call import Call, read_call
from router.choice_config import ModelChoiceConfig
from router.choice_metrics import ChoiceMetrics
from router.config import ModelConfig
from router.errors import ModelForbiddenError, ParameterError, StartError
from router.features_log import FeaturesLog, read_lines
from router.governance.tenant import Tenant
from router.model_choice import ModelChoice, ModelPlan
from router.prediction.features import hash_text
from router.prediction.predictor import Predictor

ID = "r-1"


@dataclass
class FakeStanding:
    """A fleet of which only what a test says is known."""

    down: set[str] = field(default_factory=set)
    slow: dict[str, float] = field(default_factory=dict)

    def is_available(self, model: str) -> bool:
        """Return whether the model is not down."""
        return model not in self.down

    def output_tokens(self, model: str, fields: Mapping[str, object]) -> float:
        """Return a hundred, whatever is asked."""
        return 100.0

    def seconds(self, model: str, output_tokens: float) -> float | None:
        """Return what the test says."""
        return self.slow.get(model)


def models(**facts: dict[str, object]) -> list[ModelConfig]:
    """Return models of these names and facts."""
    replicas = [{"url": "http://h:1"}]
    return [
        ModelConfig.model_validate({"name": name, "replicas": replicas, **each})
        for name, each in facts.items()
    ]


TWO = models(coder={}, poet={})


@dataclass
class Chooser:
    """A model choice under test with what it counts."""

    choice: ModelChoice
    registry: CollectorRegistry

    def plan(self, call: Call, **more: Any) -> ModelPlan:
        """Plan one request."""
        headers = more.pop("headers", [])
        return self.choice.plan(call, headers, request_id=ID, arrival_unix_seconds=0.0, **more)

    def count(self, name: str, **labels: str) -> float:
        """Return a counter, 0 where it has not been counted."""
        return self.registry.get_sample_value(f"motley_router_{name}_total", labels) or 0.0


def chooser(
    config: dict[str, object] | None = None,
    *,
    known: list[ModelConfig] = TWO,
    predictor: Predictor | None = None,
    standing: FakeStanding | None = None,
    log: FeaturesLog | None = None,
) -> Chooser:
    """Return a choice by `config`, with the small predictor if the file names one."""
    settings = ModelChoiceConfig.model_validate(config or {"predictor": "p.npz"})
    if settings.predictor is not None and predictor is None:
        predictor = small_predictor()
    registry = CollectorRegistry()
    choice = ModelChoice(
        settings, known, predictor, standing or FakeStanding(), ChoiceMetrics(registry), log
    )
    return Chooser(choice, registry)


def asking(text: str, **fields: object) -> Call:
    """Return a chat request of one user message."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return read_call(json.dumps(body).encode(), target="/v1/chat/completions", headers=())


def test_the_prompt_decides() -> None:
    """Each kind of prompt goes to the model that is good at it, the other one is the fallback."""
    under_test = chooser()
    code, poem = (under_test.plan(asking(text)) for text in (CODE_PROMPT, POEM_PROMPT))
    assert code.models == ("coder", "poet")
    assert poem.models == ("poet", "coder")
    assert json.loads(code.call.body)["model"] == "coder"
    assert code.call.query.model == "coder"
    assert code.headers(None) == [
        (b"x-motley-model", b"coder"),
        (b"x-motley-reason", b"best_predicted"),
    ]
    assert code.headers("poet")[1] == (b"x-motley-reason", b"fallback")
    assert under_test.count("choices", pool="auto", model="poet", reason="best_predicted") == 1


def test_goals_pull_against_the_prediction() -> None:
    """A large enough weight buys the cheaper model, a small one does not."""
    priced = models(
        coder={"price_input_usd_per_million": 9, "price_output_usd_per_million": 9},
        poet={"price_input_usd_per_million": 1, "price_output_usd_per_million": 1},
    )
    config = {"predictor": "p.npz", "flags": {"max_weight": 2}}
    under_test = chooser(config, known=priced)
    picks = [
        under_test.plan(asking(f"{CODE_PROMPT} [Flag: cheapest={weight}]")).models[0]
        for weight in (0, 0.01, 2)
    ]
    assert picks == ["coder", "coder", "poet"]
    assert under_test.count("goals", carrier="text", goal="cheapest") == 3


def test_flags_and_field_leave_every_other_byte() -> None:
    """The body goes on with the pick's name, without flags and field, and otherwise as it came."""
    body = (
        b'{ "model":"auto", "motley": {"goals": {"newest": 0.1}},\n "temperature": 0.10,'
        b' "messages": [{"role":"user","content":"h\\u00e9 [Flag: cheapest]"},'
        b' {"role":"assistant","content": "a\\/b"}, {"role":"user","content":"poem"}] }'
    )
    call = read_call(body, target="/v1/chat/completions", headers=())
    plan = chooser({"pools": {"auto": ["poet"]}}).plan(call)
    assert plan.call.body == (
        b'{ "model":"poet", "temperature": 0.10,'
        b' "messages": [{"role":"user","content":"h\xc3\xa9"},'
        b' {"role":"assistant","content": "a\\/b"}, {"role":"user","content":"poem"}] }'
    )
    assert plan.call.query.fields == json.loads(plan.call.body)
    assert plan.goals == {"newest": 0.1}


def test_a_named_model_is_not_judged_but_cleaned() -> None:
    """Its flags go, unheard and unjudged; a request without any passes as the same object."""
    under_test = chooser()
    plain = asking("hello", model="poet")
    assert under_test.plan(plain).call is plain
    flagged = under_test.plan(asking("hello [Flag: odd] [Flag: cheapest]", model="poet"))
    assert flagged.call.query.fields["messages"] == [
        {"role": "user", "content": "hello [Flag: odd]"}
    ]
    assert flagged.models == ()
    assert flagged.headers("poet") == []
    assert flagged.record() is None


def test_switched_off_texts_carry_nothing() -> None:
    """With `in_text: false` a flag is text: it is neither heard nor taken out."""
    config = {"predictor": "p.npz", "flags": {"in_text": False}, "goals": {"newest": 0.1}}
    plan = chooser(config).plan(asking("poem [Flag: odd]"))
    assert plan.goals == {"newest": 0.1}
    assert plan.call.query.fields["messages"] == [{"role": "user", "content": "poem [Flag: odd]"}]


def test_a_completions_prompt_is_left_alone() -> None:
    """A prompt has no roles, so what stands at its end is text; it is predicted from all the same."""
    body = {"model": "auto", "prompt": f"{POEM_PROMPT} [Flag: odd]"}
    call = read_call(json.dumps(body).encode(), target="/v1/completions", headers=())
    plan = chooser().plan(call, headers=[(b"x-motley-goals", b"newest")])
    assert plan.models[0] == "poet"
    assert plan.call.query.fields["prompt"] == body["prompt"]
    assert plan.goals == {"newest": 0.2}


def test_unknown_flags_are_refused_or_counted() -> None:
    """A 400 by default; where the configuration says so they are counted and stay."""
    with pytest.raises(ParameterError):
        chooser().plan(asking("poem [Flag: odd]"))
    lenient = chooser({"predictor": "p.npz", "flags": {"unknown": "ignore"}})
    plan = lenient.plan(asking("poem [Flag: odd]"))
    assert plan.call.query.fields["messages"] == [{"role": "user", "content": "poem [Flag: odd]"}]
    assert lenient.count("flags", outcome="unknown") == 1


def test_goals_never_widen_what_is_eligible() -> None:
    """Models that are down, forbidden or too small are out, whatever is asked or predicted."""
    known = models(coder={"context_tokens": 110}, poet={}, spare={})
    wish = [(b"x-motley-goals", b"most secure=1, quality=0.9")]
    pools = {"pools": {"auto": ["coder", "poet", "spare"]}}
    long = asking("word " * 100)
    assert chooser(pools, known=known).plan(long, headers=wish).models == ("poet", "spare")
    down = chooser(pools, known=known, standing=FakeStanding(down={"poet"}))
    assert down.plan(long).models == ("spare",)
    only = chooser(pools, known=known).plan(long, tenant=Tenant("t", models=("coder",)))
    assert only.models == ("coder",)
    with pytest.raises(ModelForbiddenError):
        chooser(pools, known=known).plan(long, tenant=Tenant("t", models=("other",)))


def test_where_all_are_down_the_attempts_tell() -> None:
    """With no replica left for any model the allowed ones are tried all the same."""
    standing = FakeStanding(down={"coder", "poet"})
    assert set(chooser(standing=standing).plan(asking("x")).models) == {"coder", "poet"}


def test_fastest_goes_by_live_figures() -> None:
    """The model whose replicas lately were fastest wins where the prediction does not mind."""
    standing = FakeStanding(slow={"a": 9.0, "b": 1.0})
    under_test = chooser({"pools": {"p": ["a", "b"]}}, known=models(a={}, b={}), standing=standing)
    plan = under_test.plan(asking("x [Flag: fastest]", model="p"))
    assert (plan.models, plan.reason) == (("b", "a"), "by_goals")


@pytest.mark.parametrize("kind", ["raises", "nan"])
def test_a_broken_predictor_fails_no_request(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The best single model answers, with a reason, a counter and a warning that quote nothing."""
    sound = small_predictor()
    if kind == "raises":
        broken = replace(sound, ridge=_without_predict(sound))
    else:
        means = np.full_like(sound.calibration.observed, np.nan)
        settings = sound.settings.model_copy(update={"is_calibrated": True})
        calibration = replace(sound.calibration, observed=means)
        broken = replace(sound, calibration=calibration, settings=settings)
    under_test = chooser(predictor=broken)
    plan = under_test.plan(asking(POEM_PROMPT))
    best = sound.models[sound.best_single]
    assert (plan.models[0], plan.reason) == (best, "predictor_failed")
    assert under_test.count("choices", pool="auto", model=best, reason="predictor_failed") == 1
    assert under_test.count("choices", pool="auto", model=best, reason="abstained") == 0
    assert "predictor failed pool=auto" in caplog.text
    assert "moon" not in caplog.text


def _without_predict(sound: Predictor) -> Any:
    """Return a ridge that cannot predict."""

    class Ridge:
        means = sound.ridge.means

        def predict(self, vectors: object) -> object:
            raise IndexError("boom")

    return Ridge()


def test_the_features_log_has_every_request(tmp_path: Path) -> None:
    """One line a request, of the text without flags; named models are in it too."""
    log = FeaturesLog(tmp_path / "f.jsonl", most_bytes=10**6)
    config = {"predictor": "p.npz", "explore_fraction": 0.5}
    under_test = chooser(config, log=log)
    under_test.plan(asking(f"{POEM_PROMPT} [Flag: newest]"))
    under_test.plan(asking("hello", model="poet"))
    log.close()
    pooled, named = read_lines(tmp_path / "f.jsonl")
    assert np.array_equal(pooled.features.indices, hash_text(POEM_PROMPT).indices)
    assert (pooled.asked, pooled.models, pooled.goals) == (
        "auto",
        ("coder", "poet"),
        {"newest": 0.2},
    )
    assert pooled.propensity in (0.75, 0.25)
    assert pooled.predicted is not None
    assert (named.asked, named.pick, named.reason, named.propensity) == ("poet", "poet", "named", 1)


def test_pools_and_predictor_must_fit() -> None:
    """What could never be chosen is told at the start."""
    with pytest.raises(StartError, match="knows coder, poet and none of a, b"):
        chooser(known=models(a={}, b={}))
    with pytest.raises(StartError, match=r"pools\.p: .* does not know b"):
        chooser({"predictor": "p.npz", "pools": {"p": ["poet", "b"]}}, known=models(poet={}, b={}))
    assert set(chooser(known=models(poet={}, b={})).choice.pools) == {"auto"}
