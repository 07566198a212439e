"""Regular expressions that callers wrote, matched in a process of their own.

Law: no expression stalls the worker. Python's `re` holds the interpreter while it backtracks, which some expressions do
for ever; a process can be killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from activities.tools.context import ToolFailed
from workflows.errors import cut

MATCHER = Path(__file__).with_name("matcher.py")
MATCH_SECONDS = 10.0
# For one file of 2 MB; a sound expression takes a fraction of a second.
POLL_SECONDS = 0.1
PATTERN_CHARACTERS = 1_000


class Matcher:
    """One expression, over any number of files."""

    def __init__(self, pattern: str, *, ignore_case: bool, is_cancelled: Callable[[], bool]) -> None:
        if len(pattern) > PATTERN_CHARACTERS:
            raise ToolFailed(f"the pattern has {len(pattern):,} characters and the limit is {PATTERN_CHARACTERS:,}.")
        self._pattern = pattern
        self._ignore_case = ignore_case
        self._is_cancelled = is_cancelled
        self._read = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own program, with nothing of the caller's as an argument
            [sys.executable, "-I", "-S", str(MATCHER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        try:
            asked = {"pattern": self._pattern, "ignore_case": self._ignore_case}
            fault = self._ask(json.dumps(asked).encode() + b"\n", "its own text")
            if fault:
                raise ToolFailed(f"the pattern {cut(self._pattern)!r} is no regular expression: {fault}.")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def lines(self, content: bytes, wanted: int, path: str) -> list[tuple[int, str]]:
        """The first lines of a file that match, with their numbers from 1. Raises `ToolFailed`."""
        found = self._ask(f"{len(content)} {wanted}\n".encode() + content, repr(path))
        return [(number, line) for number, line in found]

    def _ask(self, request: bytes, subject: str) -> Any:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
        try:
            view = memoryview(request)
            while view:
                view = view[os.write(self._process.stdin.fileno(), view) :]
        except BrokenPipeError:
            raise self._died() from None
        return json.loads(self._answer(subject))

    def _answer(self, subject: str) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - as above
        give_up = time.monotonic() + MATCH_SECONDS
        while b"\n" not in self._read:
            if self._is_cancelled():
                raise ToolFailed("the call was cancelled")
            if time.monotonic() > give_up:
                raise ToolFailed(
                    f"the pattern {cut(self._pattern)!r} took longer than {MATCH_SECONDS:.0f} s on {subject}. "
                    "Write it without repetitions inside repetitions."
                )
            if select.select([self._process.stdout], [], [], POLL_SECONDS)[0]:
                piece = os.read(self._process.stdout.fileno(), 65_536)
                if not piece:
                    raise self._died()
                self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _died(self) -> ToolFailed:
        status = self._process.wait()
        return ToolFailed(f"the process that matches {cut(self._pattern)!r} ended with status {status}.")

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()  # which closes the pipes
