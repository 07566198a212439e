"""Today's code runs yesterday's histories."""

import pytest
from temporalio.client import WorkflowHistory

from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings
from tests.replay.record import HISTORIES, SCENARIOS, WORKFLOWS
from workflows import ALL_WORKFLOWS

RECORDED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HISTORIES.glob("*.json"))}


@pytest.fixture(scope="module")
async def verdicts() -> dict[str, ReplayVerdict]:
    """All of them by one Replayer: making one takes longer than replaying a history."""
    histories = [WorkflowHistory.from_json(name, history) for name, history in RECORDED.items()]
    return {verdict.workflow_id: verdict for verdict in await replay_histories(histories, WORKFLOWS, Settings())}


@pytest.mark.parametrize("name", RECORDED)
def test_history_replays(verdicts: dict[str, ReplayVerdict], name: str) -> None:
    """The workflow code takes the same way through a recorded history as it took when it was recorded."""
    assert verdicts[name].failure is None


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
