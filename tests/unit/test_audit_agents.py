"""The rules of the example `audit`: what they find, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from examples.audit import publishing
from examples.audit.findings import FileReport, Function, Judgement, Limits, Measures
from examples.audit.inspecting import inspect_file
from examples.audit.judging import judge, summarise, worst
from examples.audit.tree import inventory
from workflows.errors import StepFailed

LIMITS = Limits(function_lines=5, parameters=3, nesting=2, complexity=4, file_lines=30)


def found(tmp_path: Path, code: str, name: str = "sample.py") -> list[tuple[int, str]]:
    """Line and rule of each finding in a file."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(code))
    return [(one.line, one.rule) for one in inspect_file(str(tmp_path), name, LIMITS).findings]


FINDINGS = {
    "syntax": ("def f(:\n", [(1, "does-not-parse")]),
    "null byte": ("x = 1\0\n", [(1, "does-not-parse")]),
    "bare except": ("try:\n    x = 1\nexcept:\n    pass\n", [(3, "swallowed-interrupt")]),
    "base exception": ("try:\n    x = 1\nexcept BaseException:\n    ...\n", [(3, "swallowed-interrupt")]),
    "ignored": ("try:\n    x = 1\nexcept (OSError, Exception):\n    pass\n", [(3, "ignored-exception")]),
    "dropped": ("try:\n    x = 1\nexcept Exception:\n    x = 2\n", [(3, "dropped-exception")]),
    "dropped interrupt": ("try:\n    x = 1\nexcept:\n    x = 2\n", [(3, "dropped-interrupt")]),
    "duplicate key": ("x = {'a': 1,\n     'a': 2}\n", [(2, "duplicate-key")]),
    "repeated definition": ("def f(): ...\n\n\ndef f(): ...\n", [(4, "repeated-definition")]),
    "assert on tuple": ("assert (1 > 2, 'no')\n", [(1, "assert-on-tuple")]),
    "not implemented": ("raise NotImplemented('later')\n", [(1, "not-implemented")]),
    "mutable default": ("def f(seen=[]):\n    seen.append(1)\n", [(1, "mutable-default")]),
    "keyword default": ("def f(*, seen={}):\n    seen['a'] = 1\n", [(1, "mutable-default")]),
    "blocking call": ("import time\nasync def f():\n    time.sleep(1)\n", [(3, "blocking-call")]),
    "forgotten await": ("async def f(): ...\nasync def g():\n    f()\n", [(3, "forgotten-await")]),
    "forgotten task": ("import asyncio\nasyncio.create_task(x)\n", [(2, "forgotten-task")]),
    "shell": ("import subprocess\nsubprocess.run(f'ls {x}', shell=True)\n", [(2, "shell-command")]),
    "eval": ("x = eval(text)\n", [(1, "evaluation")]),
    "none": ("if x == None: ...\n", [(1, "wrong-comparison")]),
    "literal": ("if x is 'a': ...\n", [(1, "wrong-comparison")]),
    "unreachable": ("def f():\n    return 1\n    x = 2\n", [(3, "unreachable-code")]),
    "finally": ("def f():\n    try:\n        x = 1\n    finally:\n        return 2\n", [(5, "jump-out-of-finally")]),
    "unused import": ("import os\nfrom a import b, c\nc()\n", [(1, "unused-import"), (2, "unused-import")]),
    "unused in several lines": ("from a import (\n    b,\n    c,\n)\nb()\n", [(3, "unused-import")]),
    "long function": ("def _f():\n" + "    x = 1\n" * 6, [(1, "long-function")]),
    "very long function": ("def _f():\n" + "    x = 1\n" * 10, [(1, "very-long-function")]),
    "complex function": ("def f(a, b): return 1 if a and b or a else 2 if b else 3\n", [(1, "complex-function")]),
    "deep nesting": ("def _f():\n    for a in b:\n        if a:\n            while a: ...\n", [(4, "deep-nesting")]),
    "many parameters": ("def f(a, b, c, d): ...\n", [(1, "many-parameters")]),
    "todo": ("x = 1  # TODO: later\n", [(1, "unowned-todo")]),
    "shadowed": ("list = [1]\n", [(1, "shadowed-builtin")]),
    "missing docstring": ("class Open: ...\n", [(1, "missing-docstring")]),
    "long file": ("x = 1\n" * 31, [(1, "long-file")]),
}

ACCEPTED = {
    "narrow except": "try:\n    x = 1\nexcept KeyError:\n    pass\n",
    "explained except": "try:\n    x = 1\nexcept Exception:  # best effort: the cache may be gone\n    pass\n",
    "explained above": "# best effort\ntry:\n    x = 1\nexcept Exception:\n    pass\n",
    "raised again": "try:\n    x = 1\nexcept:\n    x = 2\n    raise\n",
    "logged": "try:\n    x = 1\nexcept Exception:\n    log.exception('lost')\n",
    "told": "try:\n    x = 1\nexcept Exception:\n    notify_exception(x)\n",
    "version": "import sys\nif sys.version_info >= (3, 12):\n    from typing import override\nx = 1\n",
    "error used": "try:\n    x = 1\nexcept Exception as error:\n    y = str(error)\n",
    "noqa": "import os  # noqa: F401\n",
    "bare noqa": "import os  # noqa\n",
    "same value twice": "x = {'a': 1, 'a': 1}\n",
    "true is not one": "x = {1: 'a', True: 'b'}\n",
    "overload": "@overload\ndef f(): ...\n@overload\ndef f(): ...\ndef f(): ...\n",
    "conditional definition": "if x:\n    def f(): ...\nelse:\n    def f(): ...\n",
    "redefined after use": "def f(): ...\ng = f()\ndef f(): ...\n",
    "unchanged default": "def f(seen=[]):\n    return len(seen)\n",
    "copied default": "def f(seen={}):\n    seen = dict(seen)\n    seen['a'] = 1\n",
    "sleep in a thread": "import time\nasync def f():\n    def work():\n        time.sleep(1)\n    return work\n",
    "awaited": "async def f(): ...\nasync def g():\n    await f()\n",
    "fixed shell": "import subprocess\nsubprocess.run('ls | wc', shell=True)\n",
    "empty generator": "def f():\n    return\n    yield\n",
    "all": "from a import b\n__all__ = ['b']\nx = 1\n",
    "string annotation": "from a import B\ndef f(x: 'list[B]'): ...\n",
    "type checking": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import B\ndef f(x: B): ...\n",
    "type comment": "from a import B\nx = []  # type: list[B]\n",
    "re-export": "from a import b as b\nx = 1\n",
    "probe": "try:\n    import a\nexcept ImportError:\n    a = None\n",
    "shim": '"""Old names."""\nfrom a import b\nfrom a import c\n',
    "future": "from __future__ import annotations\nx = 1\n",
    "submodule": "import a.b\na.b.c()\n",
    "elif is no nesting": "def f():\n    if a: ...\n    elif b: ...\n    elif c: ...\n",
    "options": "@click.option('--a')\ndef f(a, b, c, d): ...\n",
    "keyword-only": "def f(*, a, b, c, d): ...\n",
    "self": "class _A:\n    def f(self, a, b, c): ...\n",
    "owned todo": "x = 1  # TODO(ada): later\ny = 2  # FIXME: see #12\n",
    "prose": "x = 'TODO: no comment'  # the list of TODO entries\n",
    "parameter": "def f(list): ...\n",
    "method": "class _A:\n    def list(self): ...\n",
    "private": "class _Open: ...\n",
}


@pytest.mark.parametrize(("code", "expected"), FINDINGS.values(), ids=FINDINGS)
def test_inspection_finds(tmp_path: Path, code: str, expected: list[tuple[int, str]]) -> None:
    """Each rule names its line, and no other rule speaks up."""
    assert found(tmp_path, code) == expected


@pytest.mark.parametrize("code", ACCEPTED.values(), ids=ACCEPTED)
def test_inspection_leaves_alone(tmp_path: Path, code: str) -> None:
    """What only looks like a fault is none."""
    assert found(tmp_path, code) == []


@pytest.mark.parametrize("name", ["__init__.py", "tests/test_a.py"])
def test_inspection_knows_what_a_file_is_for(tmp_path: Path, name: str) -> None:
    """A package's face may import what it does not use, and pytest gives fixtures by name."""
    assert found(tmp_path, "from a import b\n\n\ndef test_it(b): ...\n", name) == []


def test_inspection_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """An answer stays small: the worst findings are kept, all are counted."""
    (tmp_path / "many.py").write_text("x = 1  # TODO\n" * 28 + "assert (x, 'no')\n")
    report = inspect_file(str(tmp_path), "many.py", LIMITS)
    assert (report.findings[0].rule, len(report.findings)) == ("assert-on-tuple", 25)
    assert report.severities == {"error": 1, "note": 28}
    assert report.rules == {"assert-on-tuple": 1, "unowned-todo": 28}


def test_inspection_says_that_a_file_is_gone(tmp_path: Path) -> None:
    """A file that was deleted meanwhile fails its step only."""
    with pytest.raises(StepFailed, match=r"^StepFailed: 'gone\.py' cannot be read: No such file or directory\.$"):
        inspect_file(str(tmp_path), "gone.py", LIMITS)


def test_inventory_takes_what_was_written_here(tmp_path: Path) -> None:
    """Foreign, built, hidden and generated files are not taken; what is left out is counted."""
    for name in ("a.py", "b/c.py", "b/d_pb2.py", "build/e.py", ".hidden/f.py", "env/pyvenv.cfg", "env/g.py", "z.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    tree = inventory(str(tmp_path), 2)
    assert (tree.root, tree.source, tree.files) == (str(tmp_path.resolve()), "folders", ("a.py", "z.py"))
    assert tree.skipped == {
        "folders of foreign or built code, not entered": 2,
        "files beyond max_files=2": 1,
        "generated files": 1,
        "links": 1,
    }


REPORT = FileReport(path="a.py", lines=200, digest="0", severities={"error": 1, "note": 2})
HARD = Function(name="solve", line=7, lines=40, complexity=20)


def test_judge_weighs_findings_functions_changes_and_size() -> None:
    """The score is a sum with a most from each part, and the reasons name the parts."""
    measures = Measures(lines=200, functions=3, hardest=HARD, commits=8, authors=2)
    judgement = judge(REPORT, measures)
    reasons = ("1 error, 2 notes", "20 paths through `solve`", "8 changes in a year", "200 lines")
    assert judgement == Judgement(score=32, verdict="plan it", reasons=reasons, measures=measures)
    assert summarise(REPORT, judgement) == (
        "1 error, 2 notes in 200 lines, changed 8 times by 2 people in the last year. "
        "Its hardest function is `solve` in line 7 (40 lines, 20 paths)."
    )


def test_worst_ranks_findings_and_hard_functions() -> None:
    """Files without either are not among the worst."""
    hard = FileReport(path="b.py", lines=90, digest="0", hardest=(HARD,))
    easy = FileReport(path="c.py", lines=900, digest="0")
    assert worst([easy, hard, REPORT], 5) == [REPORT, hard]
    assert worst([easy, hard, REPORT], 1) == [REPORT]


def test_publishing_twice_leaves_the_same_files(tmp_path: Path) -> None:
    """Another attempt after a crash neither loses the report before nor takes its own for it."""
    output = str(tmp_path / "report.md")
    publishing.publish(output, "first", "one\n", print)
    for _ in range(2):
        publishing.publish(output, "second", "two\n", print)
    for _ in range(2):
        publishing.archive(output, "second")
    assert {file.name: file.read_text().splitlines()[1] for file in tmp_path.iterdir()} == {
        "report.md": "two",
        "report.previous.md": "one",
    }


@pytest.mark.parametrize("stopped_at", ["keeping the report before", "writing the report", None])
def test_withdrawing_undoes_a_publication_wherever_it_stopped(tmp_path: Path, stopped_at: str | None) -> None:
    """The report before is in its place again, and nothing else is left; also when it runs twice."""
    output = str(tmp_path / "report.md")
    publishing.publish(output, "first", "one\n", print)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def told(stage: str) -> None:
        if stage == stopped_at:
            raise InterruptedError

    try:
        publishing.publish(output, "second", "two\n", told)
    except InterruptedError:
        assert stopped_at is not None
    for _ in range(2):
        publishing.withdraw(output, "second")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
