"""A limit reached, in words and headers OpenAI's clients understand."""

from router.errors import BudgetError, LimitError, RateLimitError
from router.governance.account import Account, Refusal
from router.governance.tenant import NANOUSD_PER_USD, BudgetLimit, Limits
from router.governance.window import WINDOW_SECONDS

_RESET = f"{WINDOW_SECONDS // 60}m{WINDOW_SECONDS % 60}s".encode()
"""How long after a request its counts are gone: what OpenAI calls the reset."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


def limit_headers(limits: Limits, account: Account) -> RawHeaders:
    """Return OpenAI's `x-ratelimit-*` headers for the rates that are limited."""
    headers: RawHeaders = ()
    if limits.requests_per_minute:
        headers += _headers(b"requests", limits.requests_per_minute, account.requests.total)
    if limits.tokens_per_minute:
        headers += _headers(b"tokens", limits.tokens_per_minute, account.tokens.total)
    return headers


def _headers(what: bytes, limit: int, used: int) -> RawHeaders:
    return (
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % max(0, limit - used)),
        (b"x-ratelimit-reset-" + what, _RESET),
    )


def error_of(refusal: Refusal, headers: RawHeaders) -> LimitError:
    """Return the error that answers a refusal.

    Where waiting does not help, OpenAI's clients are told not to try again by themselves.
    """
    wait = refusal.retry_after_seconds
    if refusal.reason == "budget":
        message = _budget_message(refusal)
        if wait != 1:
            headers += ((b"x-should-retry", b"false"),)
        return BudgetError(message, retry_after_seconds=wait, headers=headers)
    if wait is None:
        message = (
            f"the request may take {refusal.asked} tokens, the limit is {refusal.limit} a minute; "
            "shorten it or lower max_tokens"
        )
        headers += ((b"x-should-retry", b"false"),)
        return RateLimitError(message, retry_after_seconds=None, headers=headers)
    what = refusal.reason
    message = (
        f"the limit of {refusal.limit} {what} a minute is reached: {refusal.used} used, "
        f"{refusal.asked} asked; try again in {wait} seconds"
    )
    return RateLimitError(message, retry_after_seconds=wait, headers=headers)


def _budget_message(refusal: Refusal) -> str:
    budget = refusal.budget
    assert budget is not None
    period = {"day": "a day", "month": "a month", "total": "in total"}[budget.per]
    shown = [_amount(budget, each) for each in (refusal.limit, refusal.used, refusal.asked)]
    remedy = "ask for a larger one" if budget.per == "total" else "wait for its end (UTC)"
    if refusal.retry_after_seconds == 1:
        remedy = "try again when running requests have ended"
    return (
        f"the budget of {shown[0]} {period} does not cover this request: {shown[1]} used or "
        f"reserved, {shown[2]} asked; {remedy}"
    )


def _amount(budget: BudgetLimit, value: int) -> str:
    return f"{value} tokens" if budget.tokens is not None else f"${value / NANOUSD_PER_USD:.6f}"
