"""Where users' workflows are found: a module, or a class of one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.plugin import load_workflows
from tests.workers import SAMPLES
from tests.workflow.worker_samples import Greeting, Typed
from workflows.errors import SettingsRejected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "no_such_module",
            "The setting 'workflows' names 'no_such_module', and there is no module 'no_such_module', neither in "
            "{here!r} nor installed. Name it as 'module' or 'module:Class'.",
            id="no module",
        ),
        pytest.param(
            f"{SAMPLES}:Greting",
            f"The setting 'workflows' names '{SAMPLES}:Greting', and 'Greting' is not there. "
            f"The workflows of '{SAMPLES}' are: 'Greeting', 'Typed'.",
            id="no class",
        ),
        pytest.param(
            f"{SAMPLES}:Order",
            f"The setting 'workflows' names '{SAMPLES}:Order', and 'Order' is not a workflow "
            f"(a class under @workflow.defn). The workflows of '{SAMPLES}' are: 'Greeting', 'Typed'.",
            id="no workflow",
        ),
        pytest.param(
            "workflows.wire",
            "The module 'workflows.wire' of the setting 'workflows' defines no workflow. "
            "Name the module that has the class under @workflow.defn.",
            id="none",
        ),
        pytest.param(
            "broken_flows",
            "The setting 'workflows' names 'broken_flows', which cannot be imported "
            "(ZeroDivisionError: division by zero).",
            id="broken module",
        ),
    ],
)
def test_load_workflows_refuses(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be found is named, with what there is instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_flows.py").write_text("1 / 0\n")
    with pytest.raises(SettingsRejected) as refused:
        load_workflows([name])
    assert refused.value.message == message.format(here=str(tmp_path))


def test_load_workflows_finds_modules_and_classes() -> None:
    """A module gives all its workflows, in their order and once."""
    assert load_workflows([f"{SAMPLES}:Typed", SAMPLES]) == [Typed, Greeting]
