"""How amounts, times and long texts read. Pure."""

from __future__ import annotations

from datetime import datetime

from workflows.errors import cut

LINE_LENGTH = 160
# An error or a log message in a line that is read at a glance.


def duration(milliseconds: float) -> str:
    """A duration as people read it: `0.4 s`, `2 min 5 s`, `3 h 12 min`."""
    seconds = round(milliseconds / 1000, 1)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def one_line(text: str) -> str:
    """A text on one line, cut with its length."""
    return cut(" ".join(text.split()), LINE_LENGTH)


def dollars(amount: float) -> str:
    """An amount with as many digits as small prices need."""
    return f"${amount:,.4f}" if amount < 1 else f"${amount:,.2f}"


def clock(time: str) -> str:
    """The local time of day of an event."""
    return f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}"


def moment(time: str) -> str:
    """The local date and time of a stored time."""
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 step`, `2 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def full_stop(text: str) -> str:
    """A text as a sentence that ends once."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."
