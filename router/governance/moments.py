"""Wall-clock seconds as the days and months that budgets are counted by."""

import calendar
from datetime import UTC, datetime

from router.governance.account import Moment

_DAY_SECONDS = 86_400


class Calendar:
    """Turns seconds since 1970 into moments; the month is worked out once a day."""

    def __init__(self) -> None:
        self._day = -1
        self._month = 0
        self._month_end_second = 0

    def moment(self, unix_seconds: float) -> Moment:
        """Return the moment of a time, in UTC."""
        second = int(unix_seconds)
        day = second // _DAY_SECONDS
        if day != self._day:
            self._begin(day)
        return Moment(
            second=second,
            day=day,
            month=self._month,
            day_ends_in_seconds=(day + 1) * _DAY_SECONDS - second,
            month_ends_in_seconds=self._month_end_second - second,
        )

    def _begin(self, day: int) -> None:
        date = datetime.fromtimestamp(day * _DAY_SECONDS, UTC)
        days_left = calendar.monthrange(date.year, date.month)[1] - date.day + 1
        self._month = date.year * 12 + date.month - 1
        self._month_end_second = (day + days_left) * _DAY_SECONDS
        self._day = day


def first_day_of_month(month: int) -> int:
    """Return the day (since 1970) that a month (since the year 0) begins with."""
    start = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) // _DAY_SECONDS


def date_of(day: int) -> str:
    """Return a day since 1970 as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(day * _DAY_SECONDS, UTC).strftime("%Y-%m-%d")
