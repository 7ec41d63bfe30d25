"""Names of virtual models, and what is hidden from the remote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ParameterError
from router.minions.accounting import Ledger, Price, Side
from router.minions.asking import Reply, system_and_user
from router.minions.config import ShieldConfig
from router.minions.names import split_name
from router.minions.shield import Shield, is_iban
from router.usage import Usage

MODELS = st.text("ab/+.", min_size=1, max_size=6)
ALL = ShieldConfig(emails=True, phones=True, ibans=True)
IBAN = "DE89 3704 0044 0532 0130 00"


@given(known=st.sets(MODELS, max_size=6), local=MODELS, remote=MODELS)
def test_a_name_means_the_known_pair_or_nothing(known, local, remote) -> None:
    """Every split at a plus is tried; one that fits is taken, several are refused."""
    rest = f"{local}+{remote}"
    splits = [(rest[:place], rest[place + 1 :]) for place, each in enumerate(rest) if each == "+"]
    fitting = [pair for pair in splits if pair[0] in known and pair[1] in known]
    if len(fitting) > 1:
        with pytest.raises(ParameterError, match="may mean"):
            split_name(f"minions/{rest}", lambda *pair: set(pair) <= known)
        return
    found = split_name(f"minions/{rest}", lambda *pair: set(pair) <= known)
    assert (None if found is None else [(found.local, found.remote)]) == (fitting or None)
    assert found is None or found.model == f"minions/{rest}"


def test_other_prefixes_are_no_virtual_names() -> None:
    """Only the two protocols are."""
    for name in ("a+b", "minionss/a+b", "minions", "minions/a", "Minions/a+b"):
        assert split_name(name, lambda *_: True) is None
    found = split_name("minion/a+b", lambda *_: True)
    assert found is not None
    assert found.protocol == "minion"


@given(text=st.text() | st.text("0123456789 +-()@.[]EMAIL-abc\n"))
def test_what_is_hidden_comes_back(text) -> None:
    """Hiding and revealing gives the text, whatever it holds."""
    shield = Shield(ALL)
    if "[EMAIL-" in text or "[IBAN-" in text or "[PHONE-" in text:
        return
    assert shield.reveal(shield.hide(text)) == text


@given(text=st.text())
def test_without_kinds_nothing_is_touched(text) -> None:
    """The default hides nothing."""
    assert Shield(ShieldConfig()).hide(text) == text


def test_values_become_placeholders() -> None:
    """The same value gets the same one; figures, dates and wrong check digits stay."""
    text = f"a.b@c.org, {IBAN}, +49 (30) 123-4567, a.b@c.org"
    assert Shield(ALL).hide(text) == "[EMAIL-1], [IBAN-2], [PHONE-3], [EMAIL-1]"
    for kept in ("1,234,567.89", "2026-05-01", "12345", "a@b", "DE00 3704 0044 0532 0130 00 x"[:9]):
        assert Shield(ALL).hide(kept) == kept
    assert Shield(ALL).reveal("[EMAIL-7] stays") == "[EMAIL-7] stays"


def test_check_digits_decide() -> None:
    """One changed digit is no IBAN."""
    assert is_iban(IBAN)
    assert not is_iban(IBAN.replace("89", "88", 1))


def test_a_long_run_without_an_address_is_no_trap() -> None:
    """The expressions are bounded: a megabyte of what might begin an address passes."""
    text = "a" * 200_000 + "1 " * 100_000
    assert len(Shield(ShieldConfig(emails=True, ibans=True)).hide(text)) == len(text)


def test_sides_are_added_up() -> None:
    """Reported tokens count as they are, others by bytes; cost follows the price."""
    side = Side(Price(2.0, 10.0))
    messages = system_and_user("a" * 40, "b" * 60)
    side.add(messages, Reply("x" * 40, Usage(50, 5)))
    side.add(messages, Reply("x" * 40))
    assert (side.prompt_tokens, side.completion_tokens) == (100, 15)
    assert (side.num_requests, side.num_estimated) == (2, 1)
    assert side.cost_usd == pytest.approx((100 * 2 + 15 * 10) / 1e6)
    assert side.tokens_per_byte == pytest.approx(0.5)
    assert Ledger(side, Side()).cost_usd is None
    assert Ledger(side, side).cost_usd == pytest.approx(2 * side.cost_usd)
