"""docs/testing.md is true: its files, put into one folder, are a test suite that passes."""

import asyncio
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"
FILE = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n", re.MULTILINE)


def test_every_block_of_the_page_is_a_file() -> None:
    """No code stands there that nothing runs."""
    text = PAGE.read_text()
    files = [name for name, _ in FILE.findall(text)]
    assert files == [
        *("refactor.py", "pytest.ini", "conftest.py", "scripted.py", "test_refactor.py", "test_approval.py"),
        *("reminder.py", "test_reminder.py"),
    ]
    assert len(BLOCK.findall(text)) == len(files)


async def test_the_files_of_the_page_are_a_suite_that_passes(tmp_path: Path) -> None:
    """Copied as they stand, with warnings as errors, each of its tests passes."""
    for name, text in FILE.findall(PAGE.read_text()):
        (tmp_path / name).write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert re.search(r"^5 passed in ", said.decode(), re.MULTILINE), said.decode()
