"""Steps that ask others before they go on: specialists, and people who decide about tool calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from tests.programs import FanOut
from tests.support import World, served, wait_until
from workflows.wire import RESOLVE_APPROVAL_UPDATE


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, FanOut) as world:
        yield world


def asking(task_id: str = "main", **needs: Any) -> dict[str, Any]:
    """A step whose agent asks once and then answers with what it was answered."""
    return {"task_id": task_id, "agent": "asking", "prompt": "go", "metadata": needs}


def delegation(call_id: str, specialist: str, subtask: str) -> dict[str, str]:
    return {"call_id": call_id, "specialist": specialist, "subtask": subtask}


def request(call_id: str, tool: str = "send", **more: Any) -> dict[str, Any]:
    return {"call_id": call_id, "tool": tool, "arguments": {"to": "all"}, **more}


async def question(handle: WorkflowHandle[Any, Any]) -> dict[str, Any]:
    """The only approval that a run waits for."""

    async def waiting() -> Any:
        return await handle.query("approvals")

    (found,) = await wait_until("an approval", waiting)
    return dict(found)


async def answer(handle: WorkflowHandle[Any, Any], name: str, **response: Any) -> Any:
    given = {"id": name, "response": response, "answered_by": "ann"}
    return await handle.execute_update(RESOLVE_APPROVAL_UPDATE, given)


async def test_specialists_run_as_steps_and_their_answers_come_back(world: World) -> None:
    """Each subtask is a step of its own, named after the step that asked; the asking step goes on with the outputs."""
    needs = [delegation("1", "echo", "look"), delegation("2", "broken", "write"), delegation("3", "echo", "sum up")]
    handle = await world.start("FanOut", [asking(delegations=needs)])
    (outcome,) = await handle.result()
    assert json.loads(outcome["output"]) == {"1": "look", "2": "Failed: the disk is full", "3": "sum up"}
    progress = await handle.query("progress")
    assert {each["step"]: each["status"] for each in progress["steps"]} == {
        "c0.0:main": "ok",
        "c0.0:main.echo-1": "ok",
        "c0.0:main.broken-1": "failed",
        "c0.0:main.echo-2": "ok",
    }


async def test_specialists_need_no_second_slot(world: World) -> None:
    """With a window of one the asking steps give theirs to their specialists; nothing waits for itself."""
    steps = [asking(f"s{n}", delegations=[delegation("a", "echo", f"task {n}")]) for n in range(3)]
    outcomes = await world.run("FanOut", steps, max_concurrency=1)
    assert [json.loads(outcome["output"]) for outcome in outcomes] == [{"a": f"task {n}"} for n in range(3)]


async def test_specialists_are_paid_from_the_same_budget(world: World) -> None:
    """What specialists spend is the run's; where that is all, the step that asked cannot go on either."""
    needs = [delegation("a", "greedy", "spend"), delegation("b", "greedy", "more")]
    handle = await world.start("FanOut", [asking(delegations=needs)], budget_tokens=5_000)
    (outcome,) = await handle.result()
    assert json.loads(outcome["output"]) == {"a": "spend", "b": "more"}
    assert (await handle.query("budget"))["consumed_tokens"] == 2_000
    (outcome,) = await world.run("FanOut", [asking(delegations=needs)], budget_tokens=1_000, max_concurrency=1)
    assert outcome["status"] == "budget_exceeded"
    assert outcome["output"] == "Task failed: workflow token budget exhausted (1000 / 1000 tokens)"


async def test_inline_specialists_are_found_by_name(world: World) -> None:
    """A specialist written out in the step has its profile; its entry in agents.toml decides where there is one."""
    step = asking(delegations=[delegation("a", "echo", "hello")])
    (outcome,) = await world.run("FanOut", [{**step, "specialists": [{"name": "echo", "system_prompt": "Be brief."}]}])
    assert json.loads(outcome["output"]) == {"a": "hello"}


async def test_an_agent_that_asks_for_nothing_fails(world: World) -> None:
    """A step that is suspended without a question would go round for ever; it fails instead."""
    (outcome,) = await world.run("FanOut", [asking()])
    assert outcome["output"] == "Task failed: it was suspended, and asked nobody for anything"


async def test_delegation_ends_at_a_depth(world: World) -> None:
    """Agents that delegate to each other without end are told to stop; each hears of what it asked itself."""
    (outcome,) = await world.run("FanOut", [{"task_id": "top", "agent": "delegating", "prompt": "go"}])
    assert outcome["output"].count("asked:") == 9
    assert "Not done: this is the subtask of a subtask, 8 deep. Solve it without delegating." in outcome["output"]


@pytest.mark.parametrize(
    ("response", "decision"),
    [
        ({"decision": "approve"}, {"decision": "approve"}),
        ({"decision": "deny", "message": "too loud"}, {"decision": "deny", "message": "too loud"}),
        ({"decision": "edit", "arguments": {"to": "bob"}}, {"decision": "edit", "arguments": {"to": "bob"}}),
    ],
    ids=["approve", "deny", "edit"],
)
async def test_a_person_decides_about_a_tool_call(
    world: World, response: dict[str, Any], decision: dict[str, Any]
) -> None:
    """The question is an approval like any other; the decision reaches the agent under the call's id."""
    handle = await world.start("FanOut", [asking(approvals=[request("7")])])
    asked = await question(handle)
    assert asked["id"] == "c0.0:main.send-1"
    assert asked["step"] == "c0.0:main"
    assert asked["prompt"] == "Agent 'asking' asks to call the tool 'send' with {\"to\":\"all\"}"
    await answer(handle, asked["id"], **response)
    (outcome,) = await handle.result()
    assert json.loads(outcome["output"]) == {"7": decision}
    kinds = [envelope["event"]["type"] for envelope in (await handle.query("events"))["events"]]
    assert kinds == [
        "step_started",
        "step_waiting",
        "approval_asked",
        "approval_resolved",
        "step_resumed",
        "step_finished",
    ]


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ({}, "field 'decision' is required and has no value."),
        ({"decision": "maybe"}, "field 'decision' is 'maybe'; the options are 'approve', 'deny', 'edit'."),
        (
            {"decision": "edit"},
            "the decision is 'edit' and `arguments` are missing: what is the tool called with?",
        ),
        (
            {"decision": "approve", "arguments": {"to": "bob"}},
            "the decision is 'approve', and `arguments` go with 'edit' alone.",
        ),
        (
            {"decision": "edit", "arguments": "bob"},
            "the response is {'decision': 'edit', 'arguments': 'bob'}; expected `decision`, with `arguments` as an "
            "object and `message` as text where they are given.",
        ),
        (
            {"decision": "edit", "arguments": {"to": "b" * 1_500_000}},
            "the response is 1,500,041 bytes and the limit is 400,000. Write it to a file and answer with its name.",
        ),
    ],
    ids=["nothing", "unknown", "edit without", "approve with", "no object", "large"],
)
async def test_a_decision_that_cannot_be_used_is_refused(world: World, response: dict[str, Any], told: str) -> None:
    """A bad answer is refused before it enters the history, and the run keeps waiting."""
    handle = await world.start("FanOut", [asking(approvals=[request("7")])])
    asked = await question(handle)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await answer(handle, asked["id"], **response)
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.message == told
    await answer(handle, asked["id"], decision="deny")
    assert json.loads((await handle.result())[0]["output"]) == {"7": {"decision": "deny"}}


async def test_silence_is_a_denial_at_the_deadline(world: World) -> None:
    """A call whose person does not speak in time is denied, and says so."""
    handle = await world.start("FanOut", [asking(approvals=[request("7", timeout_seconds=0.2)])])
    (outcome,) = await handle.result()
    denied = {"decision": "deny", "message": "Nobody answered within 0.2 s."}
    assert json.loads(outcome["output"]) == {"7": denied}
    events = [envelope["event"] for envelope in (await handle.query("events"))["events"]]
    assert {"type": "approval_resolved", "id": "c0.0:main.send-1", "by_deadline": True} in [
        {key: value for key, value in event.items() if value is not None} for event in events
    ]


async def test_cancel_ends_specialists_and_questions(world: World) -> None:
    """Cancelled while it waits, a step takes its specialists with it, and its question back."""
    step = asking(delegations=[delegation("a", "slow", "think")], approvals=[request("b")])
    handle = await world.start("FanOut", [step])
    await question(handle)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    assert isinstance(ended.value.cause, CancelledError)
    progress = await handle.query("progress")
    assert {each["step"]: each["status"] for each in progress["steps"]} == {
        "c0.0:main": "cancelled",
        "c0.0:main.slow-1": "cancelled",
    }
    assert await handle.query("approvals") == []


async def test_long_answers_share_the_room_and_say_so(world: World) -> None:
    """What a step goes on with fits one payload; what is cut is told in the text."""
    needs = [delegation(str(n), "verbose", "900000") for n in range(2)]
    (outcome,) = await world.run("FanOut", [asking(delegations=needs)])
    told = "\n\n[cut: 200,000 of 900,000 characters; the answers of one turn share the room]"
    assert json.loads(outcome["output"]) == {str(n): "x" * 200_000 + told for n in range(2)}
