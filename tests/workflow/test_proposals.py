"""Proposals on a real server: what runs when, what is tried again, what is undone, and what a cancel leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from tests.support import World, event_types, events_of, served, wait_until
from tests.workflow import acting_samples
from tests.workflow.acting_samples import notes

AGENTS = """
[tools]
functions = ["{0}:note", "{0}:meet", "{0}:flaky", "{0}:hang", "{0}:large"]
[[policies]]
type = "deny_tool_param"
target = "note"
key = "text"
pattern = "forbidden"
""".format("tests.workflow.acting_samples")


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(workspace)  # the workspace of a worker whose settings name none
        async with served(client, acting_samples.Acting, acting_samples.Stopped, agents=AGENTS) as world:
            yield world


@pytest.fixture
def workspace() -> Path:
    """The worker's workspace, without the notes and meetings of other tests."""
    for name in ("notes", "meeting"):
        Path(name).unlink(missing_ok=True)
    return Path.cwd()


def call(tool: str, /, **fields: Any) -> dict[str, Any]:
    """A tool call: its parameters are what is not a field of an action."""
    known = {"id", "failure_behavior", "max_retries", "idempotent", "timeout_ms", "expected_effects"}
    known |= {"state_dependencies", "preconditions"}
    given = {name: value for name, value in fields.items() if name in known}
    parameters = {name: value for name, value in fields.items() if name not in known}
    return {"type": "tool_call", "tool": tool, "parameters": parameters, **given}


def write(key: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "state_write", "parameters": {"key": key, "value": value}, **fields}


async def act(world: World, *actions: dict[str, Any], **plan: Any) -> dict[str, Any]:
    """The end of a run with one proposal."""
    ended: dict[str, Any] = await world.run("Acting", {"proposals": [{"actions": list(actions)}], **plan})
    return ended


def _told(result: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(one.get(name) for name in names) for one in result["results"]]


async def test_proposal_changes_the_state_only_when_it_succeeds(world: World, workspace: Path) -> None:
    """Writes, reads, assertions and tool calls see what came before them, and the changes are told one by one."""
    ended = await act(
        world,
        write("topic", "tides"),
        call("note", text="seen", state_dependencies=["topic"], expected_effects={"noted": True}),
        {"type": "assertion", "preconditions": [{"key": "noted", "value": True}], "state_dependencies": ["noted"]},
        {"type": "state_read", "parameters": {"key": "topic"}},
    )
    assert ended["state"] == {"topic": "tides", "noted": True}
    [result] = ended["results"]
    assert _told(result, "action_id", "status", "output", "state_changes") == [
        ("action-0", "succeeded", "tides", {"topic": "tides"}),
        ("action-1", "succeeded", "seen", {"noted": True}),
        ("action-2", "succeeded", None, None),
        ("action-3", "succeeded", "tides", None),
    ]
    assert result["cost"].pop("total_duration_ms") >= 0
    assert result["cost"] == {"tool_calls": 1, "actions_executed": 4}


async def test_proposal_that_aborts_is_rolled_back(world: World, workspace: Path) -> None:
    """An abort ends it: the rest is skipped, what was written is marked, and the state is as it was."""
    ended = await act(
        world,
        write("k", 2),
        call("calculate", expression="1 / 0"),
        call("note", text="never"),
        state={"k": 1},
    )
    assert ended["state"] == {"k": 1}
    assert ended["failure"] == "stage 'proposal' failed: '1 / 0' has no value: division by zero."
    assert _told(ended["results"][0], "status", "rolled_back") == [
        ("succeeded", True),
        ("failed", None),
        ("skipped", None),
    ]
    assert not (workspace / "notes").exists()


async def test_proposal_goes_on_after_a_skip(world: World, workspace: Path) -> None:
    """A failed skip action stops nothing, but the proposal has failed and writes nothing."""
    ended = await act(world, call("fax", failure_behavior="skip"), call("note", text="after"), write("k", 1))
    assert ended["state"] == {}
    assert ended["failure"] == "stage 'proposal' failed: tool 'fax' is not registered"
    assert _told(ended["results"][0], "status") == [("rejected",), ("succeeded",), ("succeeded",)]
    assert [line[0] for line in notes(workspace)] == ["after"]


@pytest.mark.parametrize(("fails", "status"), [(2, "succeeded"), (9, "failed")], ids=["in time", "exhausted"])
async def test_action_is_retried(world: World, workspace: Path, fails: int, status: str) -> None:
    """max_retries + 1 attempts with one idempotency key; exhausted, it ends the proposal as an abort does."""
    action = call("flaky", fails=fails, failure_behavior="retry", max_retries=2)
    ended = await act(world, write("k", 1), action, call("note", text="after", state_dependencies=["k"]))
    [result] = ended["results"]
    assert result["results"][1]["status"] == status
    assert result["cost"]["retries"] == 2
    attempts = [line for line in notes(workspace) if line[0] == "flaky"]
    assert [line[2] for line in attempts] == ["1", "2", "3"]
    assert len({line[1] for line in attempts}) == 1
    if status == "failed":
        assert ended["failure"] == "stage 'proposal' failed: attempt 3 failed"
        assert (ended["state"], _told(result, "status")[2]) == ({}, ("skipped",))


async def test_action_that_aborts_is_tried_once(world: World, workspace: Path) -> None:
    """Without `retry` a failure is the result."""
    ended = await act(world, call("flaky", fails=1))
    assert ended["failure"] == "stage 'proposal' failed: attempt 1 failed"
    assert len(notes(workspace)) == 1


async def test_level_without_aborts_runs_side_by_side(world: World, workspace: Path) -> None:
    """Three calls that wait for one another only return when they run at once."""
    ended = await act(world, *(call("meet", names=3, failure_behavior="retry") for _ in range(3)))
    assert _told(ended["results"][0], "output") == [("met",)] * 3


async def test_level_with_an_abort_runs_in_order(world: World, workspace: Path) -> None:
    """One after the other, in the order of the proposal."""
    await act(world, *(call("note", text=str(number)) for number in range(4)))
    assert [line[0] for line in notes(workspace)] == ["0", "1", "2", "3"]


async def test_idempotent_action_runs_once_in_a_run(world: World, workspace: Path) -> None:
    """The same tool and parameters return the first result, in later proposals too; others run."""
    same = call("note", text="same", idempotent=True)
    other = call("note", text="other", idempotent=True)
    ended = await world.run("Acting", {"proposals": [{"actions": [same, other]}, {"actions": [same]}]})
    assert _told(ended["results"][1], "status", "output") == [("succeeded", "same")]
    assert [line[0] for line in notes(workspace)] == ["same", "other"]
    assert "tool_calls" not in ended["results"][1]["cost"]


async def test_policies_of_the_run_and_of_the_worker_hold(world: World, workspace: Path) -> None:
    """The run's own are judged with its state before anything is scheduled, the worker's where the tool is."""
    policies = [{"type": "require_state", "key": "tested", "value": True}, {"type": "deny_tool", "target": "hang"}]
    ended = await act(world, call("hang"), policies=policies)
    assert ended["failure"] == "stage 'proposal' failed: state['tested'] must be true; tool 'hang' denied"
    allowed = await act(world, call("note", text="forbidden"), policies=policies, state={"tested": True})
    assert allowed["failure"] == "stage 'proposal' failed: param 'text' matches 'forbidden'"
    assert not (workspace / "notes").exists()


async def test_action_is_refused_by_the_state(world: World) -> None:
    """Every precondition and dependency that does not hold is named."""
    precondition = {"key": "k", "operator": "gt", "value": 3}
    ended = await act(world, call("hang", preconditions=[precondition], state_dependencies=["z"]), state={"k": 1})
    assert ended["failure"] == (
        "stage 'proposal' failed: precondition failed: state['k'] is 1, expected gt 3; state dependency 'z' not found"
    )


async def test_hung_tool_ends_at_its_timeout(world: World) -> None:
    """Each attempt has its limit."""
    ended = await act(world, call("hang", timeout_ms=200))
    assert ended["failure"] == "stage 'proposal' failed: tool 'hang' timed out after 200ms"


async def test_limits_beyond_all_reason_are_taken(world: World) -> None:
    """Numbers that Temporal cannot hold would keep the run failing for ever."""
    huge = call("note", text="x", timeout_ms=10**30, failure_behavior="retry", max_retries=10**30)
    assert _told((await act(world, huge))["results"][0], "status") == [("succeeded",)]


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (
            call("large", megabytes=50),
            "tool 'large' returned 50.0 MB and the limit is 1.9 MB. "
            "Return less, or write it to a file and return its path.",
        ),
        (
            call("note", text="{large}"),
            "action 'action-0': parameter 'text' is 3.0 MB and the limit is 1.9 MB. "
            "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS).",
        ),
    ],
    ids=["result", "parameter"],
)
async def test_oversize_is_a_failed_action(world: World, action: dict[str, Any], told: str) -> None:
    """What no history takes never gets there, and the run goes on."""
    ended = await act(world, action, grow=3_000_000)
    assert ended["failure"] == f"stage 'proposal' failed: {told}"


async def test_actions_are_told_in_the_events(world: World, workspace: Path) -> None:
    """A tool call has two events, everything else one; what never began has none."""
    actions = [
        write("k", 1, id="w"),
        call("note", id="n", text="x"),
        call("fax", id="f"),
        call("note", id="m", text="never"),
    ]
    handle = await world.start("Acting", {"proposals": [{"actions": actions}]})
    await handle.result()
    told = [{**event, "duration_ms": 0} if "duration_ms" in event else event for event in await events_of(handle)]
    assert told == [
        {"type": "action_finished", "action": "c0.0:w", "status": "succeeded", "duration_ms": 0},
        {"type": "action_started", "action": "c0.0:n", "tool": "note"},
        {"type": "action_finished", "action": "c0.0:n", "status": "succeeded", "duration_ms": 0},
        {"type": "action_started", "action": "c0.0:f", "tool": "fax"},
        {
            "type": "action_finished",
            "action": "c0.0:f",
            "status": "rejected",
            "duration_ms": 0,
            "error": "tool 'fax' is not registered",
        },
    ]


async def test_action_costs_three_activity_events(world: World, workspace: Path) -> None:
    """Scheduled with a summary, started, completed: attempts add none."""
    action = call("flaky", id="f", fails=1, failure_behavior="retry")
    handle = await world.start("Acting", {"proposals": [{"actions": [action]}]})
    await handle.result()
    history = await handle.fetch_history()
    kinds = [EventType.Name(event.event_type) for event in history.events]
    assert [kind for kind in kinds if "ACTIVITY" in kind] == [
        "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED",
        "EVENT_TYPE_ACTIVITY_TASK_STARTED",
        "EVENT_TYPE_ACTIVITY_TASK_COMPLETED",
    ]
    [scheduled] = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    assert scheduled.user_metadata.summary.data == b'"flaky (f)"'


def _undone(proposal: list[dict[str, Any]], **plan: Any) -> dict[str, Any]:
    return {"proposal": {"actions": proposal}, "undo": {"actions": [call("note", text="undone")]}, **plan}


async def test_deadline_of_a_proposal_leaves_what_was_done(world: World, workspace: Path) -> None:
    """The timer decides; what ran is in the course, what was in flight is cancelled, the rest was never begun."""
    plan = _undone([call("note", text="done"), call("hang"), call("note", text="never")], seconds=1.0)
    ended = await world.run("Stopped", plan)
    assert (ended["timed_out"], ended["undone"]) == (True, ["succeeded"])
    assert _told(ended["left"], "status", "error") == [
        ("succeeded", None),
        ("failed", "Action cancelled by caller"),
        ("skipped", None),
    ]
    assert [line[0] for line in notes(workspace)] == ["done", "undone"]


async def test_cancel_ends_every_action_in_flight(world: World, workspace: Path) -> None:
    """Cancelled, awaited and recorded; a compensation runs all the same, and its tool calls are not cancelled."""
    actions = [call("hang", failure_behavior="skip") for _ in range(12)]
    handle = await world.start("Stopped", _undone(actions))

    async def begun() -> bool:
        return (await event_types(handle)).count("action_started") == 8

    await wait_until("the window is full of actions", begun)
    await handle.cancel()
    ended = await handle.result()
    assert ended["undone"] == ["succeeded"]
    assert _told(ended["left"], "status", "error") == [
        *[("failed", "Action cancelled by caller")] * 8,
        *[("skipped", None)] * 4,
    ]
    assert [line[0] for line in notes(workspace)] == ["undone"]
