"""What agents did to the world, written outside the product: a SQLite file in the worker's working folder.

Law: a row is committed before the call returns, so that it survives the `kill -9` of its process. Rows are only added,
or marked as finished.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path("diary.sqlite")
"""Seen from the worker's working folder."""

BUSY_SECONDS = 30.0
# Dozens of threads of several processes write; each holds the file for less than a millisecond.

SCHEMA = """
create table if not exists work (id integer primary key, task_id text, key text, attempt integer, pid integer,
                                 started real, finished real);
create table if not exists turns (id integer primary key, key text, attempt integer, turn integer, tokens integer,
                                  kept integer not null default 0);
"""


@dataclass(frozen=True)
class Work:
    """One attempt of a step, as the agent itself saw it; times are seconds since the epoch."""

    task_id: str
    key: str
    attempt: int
    pid: int
    started: float
    finished: float | None


@dataclass(frozen=True)
class Turn:
    """One turn of an agent that checkpoints; `kept` once its checkpoint was durable."""

    key: str
    attempt: int
    turn: int
    tokens: int
    kept: bool


class Diary:
    """The diary of a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        with self._open() as database:
            database.execute("pragma journal_mode=wal")
            database.executescript(SCHEMA)

    def work(self) -> list[Work]:
        """Every attempt, in the order in which they began."""
        rows = self._rows("select task_id, key, attempt, pid, started, finished from work order by started, id")
        return [Work(*row) for row in rows]

    def turns(self) -> list[Turn]:
        """Every turn, in the order in which they were paid for."""
        rows = self._rows("select key, attempt, turn, tokens, kept from turns order by id")
        return [Turn(key, attempt, turn, tokens, bool(kept)) for key, attempt, turn, tokens, kept in rows]

    def begin(self, task_id: str, key: str, attempt: int) -> int:
        """An attempt begins; its row."""
        return self._write(
            "insert into work (task_id, key, attempt, pid, started) values (?, ?, ?, ?, ?)",
            (task_id, key, attempt, os.getpid(), time.time()),
        )

    def end(self, row: int) -> None:
        """The attempt of a row has done its work."""
        self._write("update work set finished = ? where id = ?", (time.time(), row))

    def pay(self, key: str, attempt: int, turn: int, tokens: int) -> int:
        """A turn was paid for; its row."""
        return self._write(
            "insert into turns (key, attempt, turn, tokens) values (?, ?, ?, ?)", (key, attempt, turn, tokens)
        )

    def keep(self, row: int) -> None:
        """The checkpoint of a turn is durable."""
        self._write("update turns set kept = 1 where id = ?", (row,))

    def _write(self, statement: str, values: tuple[object, ...]) -> int:
        with self._open() as database, database:
            return database.execute(statement, values).lastrowid or 0

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._open() as database:
            return list(database.execute(query))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS)) as database:
            database.execute("pragma synchronous=off")  # what is killed here is a process, not the machine
            yield database
