"""The house stands as docs/design.md draws it: imports point one way, and workflow code touches nothing.

Read from the syntax tree, so that nothing has to be imported to be judged.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ABOVE = {
    "workflows": {"activities", "runtime", "worker", "starter"},
    "activities": {"runtime", "worker", "starter"},
    "runtime": {"starter"},
}
"""What a room may not import: every room above it."""

MAY_NAME_AN_UPPER_ROOM = {"runtime/commands", "runtime/recall.py"}
"""The subcommands are starter.py's own rooms: `--local` builds the worker that worker.py describes."""

WITHOUT_TEMPORAL = [
    *("allotment", "budget", "events", "handover", "place", "progress", "parsing", "oversize", "steps", "actions"),
    *(f"graph/{name}" for name in ("conditions", "definition", "policies", "proposal", "templates", "verify")),
    *(f"graph/{name}" for name in ("chaining", "piecemeal", "pictures", "reads", "walk")),
    *("patterns/configs", "patterns/prompts"),
]
"""Pure modules of workflows/, tested without a server."""

LOWER = [
    *("wire", "errors", "steps", "actions", "events", "budget", "allotment", "handover"),
    *("progress", "place", "parsing", "oversize"),
]
MIDDLE = [
    *("deadline", "window", "calls", "metrics", "grants", "run", "history", "suspension", "execution"),
    *("supply", "chains", "children", "fanout"),
]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ABOVE)
def test_imports_point_one_way(room: str) -> None:
    """starter, worker -> runtime -> activities -> workflows."""
    upward = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        if not any(str(path.relative_to(ROOT)).startswith(allowed) for allowed in MAY_NAME_AN_UPPER_ROOM)
        for name in imports(path)
        if name.split(".")[0] in ABOVE[room]
    }
    assert upward == set()


def test_workflows_decide_below_and_wait_above() -> None:
    """Inside workflows/: verbs -> calls -> wire, steps, and never back."""
    upward = {
        f"{module} imports {name}"
        for module in LOWER
        for name in imports(ROOT / "workflows" / f"{module}.py")
        for middle in [*MIDDLE, "verbs", "saga", "steps_workflow", "graph_workflows"]
        if name == f"workflows.{middle}"
    }
    upward |= {
        f"{module} imports {name}"
        for module in MIDDLE
        for name in imports(ROOT / "workflows" / f"{module}.py")
        if name in {"workflows.verbs", "workflows.saga", "workflows.steps_workflow"}
    }
    assert upward == set()


@pytest.mark.parametrize("module", WITHOUT_TEMPORAL)
def test_pure_modules_do_not_know_temporal(module: str) -> None:
    """What decides without waiting needs no server, no loop and no SDK."""
    named = set(imports(ROOT / "workflows" / f"{module}.py"))
    assert not {name for name in named if name.split(".")[0] == "temporalio"}


def test_only_calls_names_activities() -> None:
    """Timeouts and retry policies of activities are in one place."""
    naming = {
        path.name
        for path in files("workflows")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"start_activity", "execute_activity"}
    }
    assert naming == {"calls.py"}


def test_workflows_load_without_what_touches_the_world() -> None:
    """Workflow code imports no network library and no model library."""
    script = "import sys, workflows; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"httpx", "aiohttp", "requests", "pydantic_ai", "openai", "boto3", "structlog", "rich"}
