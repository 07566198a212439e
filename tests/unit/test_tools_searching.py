"""find_files and grep_files: what fits, what is left out, and that every search ends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from activities.tools import ToolContext, ToolFailed, matching, searching
from activities.tools.searching import find_files, fits, grep_files


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    for name, text in {
        "a.py": "import os\nprint('A')\n",
        "src/b.py": "def b():\n    return 'é'\n",
        "src/deep/c.md": "# Import\n",
        ".git/config.py": "import hidden\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return ToolContext(idempotency_key="k", workspace=tmp_path)


def _failure(function: Any, **parameters: Any) -> str:
    with pytest.raises(ToolFailed) as failed:
        function(**parameters)
    return str(failed.value)


@pytest.mark.parametrize(
    ("path", "pattern", "is_fit"),
    [
        ("a/b/c.py", "**", True),
        ("a/b/c.py", "**/c.py", True),
        ("c.py", "**/c.py", True),
        ("a/b/c.py", "a/**/c.py", True),
        ("a/c.py", "a/**/c.py", True),
        ("a/b/c.py", "a/*.py", False),
        ("a/b/c.py", "*/*/[bc].??", True),
        ("a/b/c.py", "a/**", True),
        ("b/c.py", "a/**", False),
        ("A.py", "a.py", False),
        ("/".join("a" * 200), "/".join(["**", "*"] * 20 + ["b"]), False),
    ],
)
def test_path_fits_a_pattern(path: str, pattern: str, is_fit: bool) -> None:
    """Part by part, '**' for any folders, in time that grows with both lengths alone."""
    assert fits(path.split("/"), pattern.split("/")) == is_fit


def test_find_files_finds_by_name(context: ToolContext) -> None:
    """A name is looked for in every folder, a path from the top; version control is passed over."""
    assert find_files("*.py", context) == {"files": ["a.py", "src/b.py"]}
    assert find_files("src/*.py", context) == {"files": ["src/b.py"]}
    assert find_files("*", context, path="src") == {"files": ["src/b.py", "src/deep/c.md"]}
    assert find_files("*.rs", context) == {"files": []}
    told = "the pattern of file names is empty. Give one as '*.py' or 'src/**/*.md'."
    assert _failure(find_files, pattern="./", context=context) == told
    assert _failure(find_files, pattern="*", context=context, path="gone") == (
        "'gone' is not in the workspace. Look at what there is with list_dir."
    )


def test_find_files_says_what_it_left_out(context: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both limits leave a note."""
    monkeypatch.setattr(searching, "FOUND_FILES", 1)
    assert find_files("*", context) == {"files": ["a.py"], "note": "only the first 1 files are listed"}
    monkeypatch.setattr(searching, "SEARCHED_FILES", 1)
    note = "only the first 1 files were looked at; search a smaller folder"
    assert find_files("*", context) == {"files": ["a.py"], "note": note}


def test_grep_files_finds_lines(context: ToolContext) -> None:
    """Each line with its file and number; one file, some files, or all."""
    first = {"file": "a.py", "line": 1, "text": "import os"}
    assert grep_files("^import", context) == {"matches": [first]}
    assert grep_files("^.?.?import", context, ignore_case=True, path="src") == {
        "matches": [{"file": "src/deep/c.md", "line": 1, "text": "# Import"}]
    }
    assert grep_files("'.'", context, files="*.py") == {
        "matches": [
            {"file": "a.py", "line": 2, "text": "print('A')"},
            {"file": "src/b.py", "line": 2, "text": "    return 'é'"},
        ]
    }
    assert grep_files("import", context, path="a.py") == {"matches": [first]}


def test_grep_files_says_what_it_left_out(context: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits on lines and on the size of files leave a note; long lines are cut, binary files passed over."""
    (context.workspace / "binary").write_bytes(b"import\0")
    (context.workspace / "long").write_text("import" + "x" * 1_000)
    monkeypatch.setattr(searching, "FILE_BYTES", 900)
    assert grep_files("import", context) == {
        "matches": [{"file": "a.py", "line": 1, "text": "import os"}],
        "note": "1 files of more than 0 MB were not searched",
    }
    monkeypatch.setattr(searching, "FILE_BYTES", 9_000)
    assert grep_files("import", context, files="long") == {
        "matches": [{"file": "long", "line": 1, "text": f"import{'x' * 294}… (1,006 characters)"}]
    }
    monkeypatch.setattr(searching, "FOUND_LINES", 1)
    assert grep_files(".", context) == {
        "matches": [{"file": "a.py", "line": 1, "text": "import os"}],
        "note": "only the first 1 lines are listed",
    }


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "the pattern '(' is no regular expression: missing ), unterminated subpattern at position 0."),
        ("x" * 1_001, "the pattern has 1,001 characters and the limit is 1,000."),
    ],
)
def test_grep_files_refuses_what_is_no_expression(context: ToolContext, pattern: str, told: str) -> None:
    """Before any file is read."""
    assert _failure(grep_files, pattern=pattern, context=context) == told


def test_grep_files_ends_an_expression_that_would_not_end(
    context: ToolContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catastrophic backtracking costs its own process, which is killed."""
    monkeypatch.setattr(matching, "MATCH_SECONDS", 0.5)
    started: list[Any] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    (context.workspace / "a.py").write_text("a" * 60 + "!\n")
    assert _failure(grep_files, pattern="^(a+)+$", context=context) == (
        "the pattern '^(a+)+$' took longer than 0 s on 'a.py'. Write it without repetitions inside repetitions."
    )
    assert [process.returncode for process in started] == [-9]


def test_search_ends_when_its_call_is_cancelled(context: ToolContext) -> None:
    """A thread cannot be killed, so the search looks whether anybody waits."""
    context.stop()
    assert _failure(find_files, pattern="*", context=context) == "the call was cancelled"
    assert _failure(grep_files, pattern="x", context=context) == "the call was cancelled"


def test_search_refuses_a_pattern_of_endless_names(context: ToolContext) -> None:
    """Making an expression of it would hold the interpreter for seconds."""
    assert _failure(find_files, pattern="[" * 5_000, context=context) == (
        "the pattern of file names has 5,000 characters and the limit is 1,000."
    )


def test_search_through_folders_without_files_can_be_cancelled(context: ToolContext) -> None:
    """The cancel is seen in every folder, not only where there is a file."""
    for number in range(3):
        (context.workspace / "empty" / str(number)).mkdir(parents=True)
    context.stop()
    assert _failure(find_files, pattern="*", context=context, path="empty") == "the call was cancelled"
