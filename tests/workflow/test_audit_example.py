"""The example `audit`, as it is served: over small trees, with a tool missing, with a report that must be withdrawn."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from activities.context import BlockingStepContext
from activities.registry import Registry
from examples.audit import agents
from examples.audit.findings import VerifyOrder
from examples.audit.workflow import Audit
from runtime.settings import Settings
from tests.support import World, events_of, failure_of, rejection_of, wait_until
from worker import build_worker
from workflows import AgentStepSpec, StepOutcome

AGENTS = Path(agents.__file__).with_name("agents.toml")
LINGER_SECONDS = 20.0
# A step that is never cancelled ends by itself; a test that needs it fails.

FAULTY = '''"""A module with faults."""
import os


def load(path):
    try:
        return open(path).read()
    except:
        pass
'''
CLEAN = '''"""A module without faults."""


def double(value: int) -> int:
    """Twice the value."""
    return 2 * value
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of two files, with a folder that is not of its own."""
    root = tmp_path / "tree"
    for name, text in {"faulty.py": FAULTY, "clean.py": CLEAN, "vendor/foreign.py": FAULTY}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@asynccontextmanager
async def auditing(client: Client, tmp_path: Path, edit: Callable[[str], str] = str) -> AsyncIterator[World]:
    """A worker that serves the audit with its own agents.toml, edited where a test needs it."""
    file = tmp_path / "agents.toml"
    file.write_text(edit(AGENTS.read_text()))
    task_queue = f"audit-{tmp_path.name}"
    settings = Settings(task_queue=task_queue, workspace=tmp_path, drain_seconds=1)
    async with build_worker(client, settings, registry=Registry.load(file), workflows=[Audit]):
        yield World(client, task_queue)


def request(tree: Path, **more: Any) -> dict[str, Any]:
    """An audit of a tree, with its report beside the tree."""
    return {"path": str(tree), "output": str(tree.parent / "report.md"), **more}


def files_beside(tree: Path) -> dict[str, str]:
    """What lies beside a tree, but for its agents.toml."""
    return {file.name: file.read_text() for file in tree.parent.glob("report*")}


def without_ruff(toml: str) -> str:
    return toml.replace('"ruff"', '"no-such-linter"')


def lingering(name: str) -> Callable[[str], str]:
    """The agents, but one of them does its work and then waits to be cancelled."""
    return lambda toml: toml.replace(f"examples.audit.agents:{name}", f"tests.workflow.test_audit_example:{name}")


def publish(step: AgentStepSpec, context: BlockingStepContext) -> StepOutcome:
    """Publishes, and does not come back until it is cancelled."""
    published = agents.publish(step, context)
    until = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < until:
        context.progress("published")
        time.sleep(0.02)
    return published


def verify(step: AgentStepSpec) -> str:
    """Verifies after somebody has edited a file of the tree."""
    order = VerifyOrder.model_validate_json(step.prompt)
    (Path(order.root) / "clean.py").write_text(CLEAN + "\n")
    return agents.verify(step)


async def test_audit_reports_what_it_found(client: Client, tmp_path: Path, tree: Path) -> None:
    """The report stands where it was asked for; the summary tells its gist, a missing linter included."""
    async with auditing(client, tmp_path, without_ruff) as world:
        result = await world.run("Audit", request(tree))
    ruff = result.pop("ruff")
    assert ruff.startswith("failed: 'xargs' exited with status 127; stderr: xargs: no-such-linter:")
    assert result == {
        "root": str(tree),
        "report": str(tmp_path / "report.md"),
        "files": 2,
        "lines": 15,
        "findings": {"error": 1, "warning": 1},
        "worst_files": ["16 faulty.py"],
        "failed_steps": 1,
    }
    report = (tmp_path / "report.md").read_text()
    assert "**Found: 1 error, 1 warning.** The errors are wrong as they stand; begin there." in report
    assert "- `faulty.py:8` bare `except:` does nothing: even a cancel and Ctrl-C vanish here." in report
    assert "- `faulty.py:2` 'os' is imported and not used in this file." in report
    assert "- folders of foreign or built code, not entered: 1" in report
    assert "Ruff could not be asked: 'xargs' exited with status 127" in report
    assert list(files_beside(tree)) == ["report.md"]


async def test_audit_asks_ruff_where_it_is_there(client: Client, tmp_path: Path, tree: Path) -> None:
    """Ruff's counts by rule are in the report."""
    (tree / "ruff.toml").write_text('lint.select = ["F", "E7"]\n')
    async with auditing(client, tmp_path) as world:
        result = await world.run("Audit", request(tree))
    assert (result["ruff"], result.get("failed_steps", 0)) == ("4 findings by 2 rules", 0)
    assert "| F401 | unused-import | 2 |" in (tmp_path / "report.md").read_text()


async def test_audit_keeps_the_report_before(client: Client, tmp_path: Path, tree: Path) -> None:
    """A second audit moves the first one's report aside."""
    async with auditing(client, tmp_path, without_ruff) as world:
        await world.run("Audit", request(tree))
        first = (tmp_path / "report.md").read_text()
        await world.run("Audit", request(tree))
    beside = files_beside(tree)
    assert beside.keys() == {"report.md", "report.previous.md"}
    assert beside["report.previous.md"] == first != beside["report.md"]


async def test_audit_withdraws_a_report_that_is_out_of_date(client: Client, tmp_path: Path, tree: Path) -> None:
    """A file that changed meanwhile fails the run, and the report before is in its place again."""
    async with auditing(client, tmp_path, without_ruff) as world:
        await world.run("Audit", request(tree))
    before = files_beside(tree)
    async with auditing(client, tmp_path, lambda toml: lingering("verify")(without_ruff(toml))) as world:
        run = await world.start("Audit", request(tree))
        assert await rejection_of(run) == (
            "AuditFailed",
            "The report was not kept: 'clean.py' changed while the audit ran, so it is out of date. Run it again.",
        )
        assert {"type": "compensation_finished", "name": "withdraw the report", "status": "succeeded"} in (
            await events_of(run)
        )
    assert files_beside(tree) == before


async def test_audit_cancelled_while_publishing_leaves_nothing(client: Client, tmp_path: Path, tree: Path) -> None:
    """The report that was written already is taken away, and the run ends as cancelled."""
    async with auditing(client, tmp_path, lambda toml: lingering("publish")(without_ruff(toml))) as world:
        run = await world.start("Audit", request(tree))

        async def is_written() -> bool:
            return (tmp_path / "report.md").exists()

        await wait_until("the report is written", is_written)
        await run.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await run.result()
    assert isinstance(failure.value.cause, CancelledError)
    assert files_beside(tree) == {}


async def test_audit_fails_at_its_gate_and_keeps_the_report(client: Client, tmp_path: Path, tree: Path) -> None:
    """`fail_on` fails the run with its summary in the details; the report is what the reader needs."""
    async with auditing(client, tmp_path, without_ruff) as world:
        failure = await failure_of(await world.start("Audit", request(tree, fail_on="warning")))
    assert isinstance(failure, ApplicationError)
    report = tmp_path / "report.md"
    assert (failure.type, failure.message) == (
        "GateFailed",
        f"The audit found 1 error, 1 warning. Its report is {report}.",
    )
    assert failure.details[0]["findings"] == {"error": 1, "warning": 1}
    assert report.is_file()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param("nowhere", "path '{path}' is not there; give an existing folder.", id="missing"),
        pytest.param("agents.toml", "path '{path}' is a file; give an existing folder.", id="file"),
        pytest.param(
            "empty", "path '{path}' holds no Python file to audit; give a folder with .py files.", id="no-python"
        ),
    ],
)
async def test_audit_refuses_a_path_without_python(client: Client, tmp_path: Path, path: str, text: str) -> None:
    """The failure says what was found at the path, and what to give."""
    (tmp_path / "empty").mkdir()
    async with auditing(client, tmp_path, without_ruff) as world:
        run = await world.start("Audit", request(tmp_path / path, output=str(tmp_path / "report.md")))
        assert await rejection_of(run) == ("AuditFailed", text.format(path=tmp_path / path))


async def test_audit_refuses_an_input_that_it_does_not_know(client: Client, tmp_path: Path) -> None:
    """Each field that is wrong is named, and nothing was scheduled."""
    async with auditing(client, tmp_path) as world:
        run = await world.start("Audit", {"pth": ".", "worst_files": -1})
        assert await rejection_of(run) == (
            "InputRejected",
            "Audit: 'worst_files' is -1; input should be greater than or equal to 0. "
            "Audit: 'pth' is not known. Did you mean 'path'?",
        )
        assert await events_of(run) == []


async def test_audit_does_not_replace_a_file_of_somebody_else(client: Client, tmp_path: Path, tree: Path) -> None:
    """An output that is no audit report stays as it is."""
    (tmp_path / "report.md").write_text("# Mine\n")
    async with auditing(client, tmp_path, without_ruff) as world:
        run = await world.start("Audit", request(tree))
        kind, text = await rejection_of(run)
    assert (kind, text) == (
        "AuditFailed",
        f"output {str(tmp_path / 'report.md')!r} exists and is no audit report; it is not replaced. Name another file.",
    )
    assert files_beside(tree) == {"report.md": "# Mine\n"}


async def test_audit_takes_the_files_that_git_lists(client: Client, tmp_path: Path, tree: Path) -> None:
    """In a git checkout, what git ignores is not audited."""
    (tree / ".gitignore").write_text("clean.py\n")
    await asyncio.to_thread(subprocess.run, ["git", "init", "--quiet", str(tree)], check=True)
    async with auditing(client, tmp_path, without_ruff) as world:
        result = await world.run("Audit", request(tree))
    assert (result["files"], result["worst_files"]) == (1, ["16 faulty.py"])
