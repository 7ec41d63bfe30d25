"""Dollars in words."""


def usd(amount: float) -> str:
    """Return dollars with two decimals, or with three significant digits under ten cents."""
    return f"${amount:.3g}" if 0 < amount < 0.1 else f"${amount:,.2f}"
