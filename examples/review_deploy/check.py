"""Runs the tests of the release whose folder is on stdin; a status of 1 and the first failure where one fails.

A program of its own: what a release does when it is imported stays out of the worker.
"""

from __future__ import annotations

import io
import sys
import unittest
from pathlib import Path


def main() -> int:
    """The exit status."""
    folder = Path(sys.stdin.read().strip())
    if not folder.is_dir():
        print(f"there is no release in {str(folder)!r}", file=sys.stderr)
        return 1
    sys.dont_write_bytecode = True
    suite = unittest.defaultTestLoader.discover(str(folder))
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    broken = [*result.failures, *result.errors]
    if not result.testsRun:
        print(f"{folder} has no tests", file=sys.stderr)
    for test, trace in broken[:1]:
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        print(f"{test.id()} failed{more}: {trace.strip().splitlines()[-1]}", file=sys.stderr)
    if broken or not result.testsRun:
        return 1
    print(f"{result.testsRun} tests passed in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
