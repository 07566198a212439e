"""The process behind `matching.py`: reads an expression, then files, and answers each with one line of JSON.

Runs alone: it imports nothing of perdure's, so that it starts in milliseconds.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import islice
from typing import Any, BinaryIO

LINE_CHARACTERS = 300


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Serve until there are no more requests."""

    def answer(value: Any) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    asked = json.loads(requests.readline())
    try:
        expression = re.compile(asked["pattern"], re.IGNORECASE if asked["ignore_case"] else 0)
    except (re.error, OverflowError, RecursionError) as error:
        answer(str(error))
        return
    answer(None)
    while header := requests.readline():
        length, wanted = map(int, header.split())
        lines = requests.read(length).decode("utf-8", "replace").splitlines()
        matching = ([number, _cut(line)] for number, line in enumerate(lines, 1) if expression.search(line))
        answer(list(islice(matching, wanted)))


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}… ({len(line):,} characters)"


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
