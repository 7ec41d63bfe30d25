"""Goals and their carriers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.choice_config import FlagsConfig
from router.errors import ParameterError
from router.flags import Tail, read_tail
from router.goal_carriers import Asked, asked_goals
from router.goals import KNOWN, QUALITY, GoalRules, Goals, make_goals, read_header, read_value

RULES = GoalRules(default_weight=0.2, max_weight=1.0, most=4)


@given(
    st.dictionaries(
        st.sampled_from([goal for goal in KNOWN if goal != QUALITY]),
        st.floats(0, 100, allow_nan=False),
        max_size=4,
    )
)
def test_all_carriers_say_the_same(weights: dict[str, float]) -> None:
    """A header, an object and a line in a field read alike; weights are clamped."""
    line = ", ".join(f"{goal}={weight:.3f}" for goal, weight in weights.items())
    rounded = {goal: float(f"{weight:.3f}") for goal, weight in weights.items()}
    expected = {goal: min(weight, 1.0) for goal, weight in rounded.items()}
    assert dict(read_header(line, RULES, carrier="x").weights) == expected
    assert dict(read_value(line, RULES, carrier="x").weights) == expected
    assert dict(read_value(rounded, RULES, carrier="x").weights) == expected


def test_defaults_aliases_and_repetitions() -> None:
    """No weight is the default; the last of a goal counts; quality is a filter, not a weight."""
    goals = read_header(
        "Latest model, cheapest=0.5, cheapest=0.1, quality=0.75", RULES, carrier="x"
    )
    assert dict(goals.weights) == {"newest": 0.2, "cheapest": 0.1}
    assert goals.min_quality == 0.75
    assert goals.written() == {"newest": 0.2, "cheapest": 0.1, "quality": 0.75}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("best", "names no goal; use one of: smallest, cheapest"),
        ("cheapest=-1", "is no weight"),
        ("cheapest=nan", "is no weight"),
        ("cheapest=", "is no weight"),
        ("quality", "quality needs a number from 0 to 1"),
        ("quality=2", "quality needs a number from 0 to 1"),
        ("cheapest,fastest,newest,shortest,smallest", "more than 4 goals"),
        ({"cheapest": float("nan")}, "weight of cheapest must be a finite"),
        ({"cheapest": float("inf")}, "weight of cheapest must be a finite"),
        ({"cheapest": -0.1}, "weight of cheapest must be a finite"),
        ({"cheapest": True}, "weight of cheapest must be a finite"),
        ({"cheapest": "0.1"}, "weight of cheapest must be a finite"),
        ({"quality": None}, "quality needs a number"),
        (["cheapest"], "must be an object"),
        (7, "must be an object"),
    ],
)
def test_bad_goals_are_refused(value: object, problem: str) -> None:
    """Each mistake is told in one line that names the carrier."""
    with pytest.raises(ParameterError, match=problem) as caught:
        read_value(value, RULES, carrier="motley.goals")
    assert str(caught.value).startswith("motley.goals: ")
    assert "\n" not in str(caught.value)
    assert caught.value.param == "motley.goals"


def test_a_number_beyond_floats_is_clamped() -> None:
    """A whole number of any size is a large weight, not a crash."""
    assert dict(make_goals([("cheapest", 10**400)], RULES, carrier="x").weights) == {
        "cheapest": 1.0
    }


HEADER = [(b"x-motley-goals", b"fastest=0.1")]
FIELDS = {"motley": {"goals": {"newest": 0.3}}}
TAIL = read_tail("x [Flag: cheapest=0.4]", most=4)
DEFAULT = Goals({"shortest": 0.5})


@pytest.mark.parametrize(
    ("headers", "fields", "tail", "carrier", "weights"),
    [
        (HEADER, FIELDS, TAIL, "header", {"fastest": 0.1}),
        ([], FIELDS, TAIL, "field", {"newest": 0.3}),
        ([], {}, TAIL, "text", {"cheapest": 0.4}),
        ([], {"motley": None}, Tail("x"), "config", {"shortest": 0.5}),
        ([], {"motley": {"goals": None}}, TAIL, "text", {"cheapest": 0.4}),
        ([(b"x-motley-goals", b" ")], FIELDS, TAIL, "header", {}),
        (
            [*HEADER, (b"x-motley-goals", b"newest")],
            {},
            TAIL,
            "header",
            {"fastest": 0.1, "newest": 0.2},
        ),
        ([], {"motley": {"goals": {}}}, TAIL, "field", {}),
    ],
)
def test_the_first_carrier_decides_alone(
    headers: list[tuple[bytes, bytes]],
    fields: dict[str, object],
    tail: Tail,
    carrier: str,
    weights: dict[str, float],
) -> None:
    """Header, then field, then text, then configuration; a higher one replaces all below."""
    asked = asked_goals(headers, fields, tail, FlagsConfig(), DEFAULT)
    assert (asked.carrier, dict(asked.goals.weights)) == (carrier, weights)


def test_lower_carriers_are_not_judged() -> None:
    """A mistake in a carrier that does not decide is none."""
    bad = read_tail("x [Flag: odd]", most=4)
    assert asked_goals(HEADER, {"motley": 7}, bad, FlagsConfig(), DEFAULT).carrier == "header"
    off = FlagsConfig(in_text=False)
    assert asked_goals([], {}, bad, off, DEFAULT) == Asked(DEFAULT, "config")
    ignoring = FlagsConfig(unknown="ignore")
    assert asked_goals([], {}, bad, ignoring, DEFAULT) == Asked(DEFAULT, "config")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secret [Flag: odd]", "a flag at the end names no goal"),
        ("secret [Flag: cheapest=-1]", "weight of a flag at the end is none"),
        ("secret" + "[Flag: cheapest]" * 9, "more than 8 flags"),
    ],
)
def test_a_bad_tail_is_refused_without_being_quoted(text: str, problem: str) -> None:
    """The message says what is wrong and repeats nothing of the prompt."""
    flags = FlagsConfig()
    with pytest.raises(ParameterError, match=problem) as caught:
        asked_goals([], {}, read_tail(text, most=flags.most), flags, DEFAULT)
    assert "secret" not in str(caught.value)
    assert "odd" not in str(caught.value)


@pytest.mark.parametrize("value", [7, [], "cheapest", {"goal": {}}])
def test_the_field_has_one_shape(value: object) -> None:
    """What is no object with `goals` is refused by name."""
    with pytest.raises(ParameterError, match="motley: must be an object"):
        asked_goals([], {"motley": value}, Tail("x"), FlagsConfig(), DEFAULT)
