"""Today's code runs yesterday's histories."""

import pytest
from temporalio.client import WorkflowHistory

from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings
from tests.replay.record import HISTORIES, SCENARIOS, WORKFLOWS
from workflows import ALL_WORKFLOWS

RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HISTORIES.glob("*.json"))}


@pytest.mark.parametrize("name", RECORDED)
async def test_history_replays(name: str) -> None:
    """The workflow code takes the same way through a recorded history as it took when it was recorded."""
    history = WorkflowHistory.from_json(name, RECORDED[name])
    [verdict] = await replay_histories([history], WORKFLOWS, Settings())
    assert verdict == ReplayVerdict(name, verdict.workflow_type)


def test_every_scenario_has_its_history() -> None:
    """A scenario without a recording proves nothing: run `python -m tests.replay.record`."""
    assert RECORDED.keys() >= SCENARIOS.keys()


def test_every_workflow_type_has_a_history() -> None:
    """A workflow type that perdure serves is replayed here in at least one recording."""
    recorded = {scenario.workflow for scenario in SCENARIOS.values()}
    assert recorded >= {served.__name__ for served in ALL_WORKFLOWS}


@pytest.mark.parametrize("key", ["identity", "stackTrace"])
def test_histories_name_no_machine(key: str) -> None:
    """What is committed does not say where it was recorded."""
    assert [name for name, history in RECORDED.items() if f'"{key}"' in history] == []
