"""What a provider was asked and what it billed, counted outside the product, in memory or in a SQLite file.

Law: an answer is billed before its first byte leaves, so that no kill hides it. A file survives the `kill -9` of the
provider and may be read by any process meanwhile.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tests.provider.replies import Tokens

BUSY_SECONDS = 30.0
# One process writes, in transactions of less than a millisecond.

End = Literal["open", "answered", "refused", "broken", "left"]
"""How a call stands: not ended (also: the provider was killed); its answer was sent whole; an error was sent; the
script broke it; the client hung up before it had its answer."""

SCHEMA = """
create table if not exists calls (number integer primary key, label text, model text, digest text, messages integer,
                                  is_stream integer, max_tokens integer, input_tokens integer not null default 0,
                                  output_tokens integer not null default 0, status integer, end text, received real,
                                  ended real);
"""


@dataclass(frozen=True)
class Call:
    """A request for a completion; times are seconds since the epoch."""

    number: int
    """From 1, in the order of arrival."""
    label: str
    """Who asked: the first part of the URL's path."""
    model: str
    digest: str
    """Of the messages: two calls with one digest asked for the same turn of the same conversation."""
    messages: int
    is_stream: bool
    max_tokens: int | None
    input_tokens: int
    output_tokens: int
    status: int | None
    end: End
    received: float
    ended: float | None

    @property
    def billed(self) -> int:
        return self.input_tokens + self.output_tokens


COLUMNS = tuple(field.name for field in fields(Call))


class Ledger:
    """The calls of a provider; without a file, for as long as the process lives."""

    def __init__(self, file: Path | None = None) -> None:
        self._database = sqlite3.connect(file or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
        if file is not None:
            self._database.execute("pragma journal_mode=wal")
            self._database.execute("pragma synchronous=off")  # what is killed here is a process, not the machine
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def begin(
        self, *, label: str, model: str, digest: str, messages: int, is_stream: bool, max_tokens: int | None
    ) -> int:
        """A request has come in; its number."""
        cursor = self._database.execute(
            "insert into calls (label, model, digest, messages, is_stream, max_tokens, end, received) "
            "values (?, ?, ?, ?, ?, ?, 'open', ?)",
            (label, model, digest, messages, is_stream, max_tokens, time.time()),
        )
        return cursor.lastrowid or 0

    def bill(self, number: int, tokens: Tokens) -> None:
        """A call will be answered, and costs this much."""
        self._database.execute(
            "update calls set input_tokens = ?, output_tokens = ? where number = ?",
            (tokens.input, tokens.output, number),
        )

    def end(self, number: int, end: End, status: int | None) -> None:
        """How a call ended."""
        self._database.execute(
            "update calls set end = ?, status = ?, ended = ? where number = ?", (end, status, time.time(), number)
        )

    def calls(self, label: str | None = None) -> list[Call]:
        """Every call, or those of a label, in the order in which they came."""
        query = f"select {', '.join(COLUMNS)} from calls where ? is null or label = ? order by number"
        return [_call(row) for row in self._database.execute(query, (label, label))]

    def billed(self, label: str | None = None) -> int:
        """Tokens that were billed, answers that nobody read included."""
        return sum(call.billed for call in self.calls(label))

    def unanswered(self) -> list[Call]:
        """Calls that were billed although their client never had the whole answer."""
        return [call for call in self.calls() if call.billed and call.end != "answered"]

    def asked_twice(self) -> dict[str, int]:
        """Turns that were billed more than once, by digest: how often."""
        count = Counter(call.digest for call in self.calls() if call.billed)
        return {name: times for name, times in count.items() if times > 1}

    def answered_twice(self) -> dict[str, int]:
        """Turns that were answered more than once, by digest: how often. The product paid for these twice."""
        count = Counter(call.digest for call in self.calls() if call.end == "answered")
        return {name: times for name, times in count.items() if times > 1}


def _call(row: tuple[Any, ...]) -> Call:
    named = dict(zip(COLUMNS, row, strict=True))
    return Call(**{**named, "is_stream": bool(named["is_stream"])})
