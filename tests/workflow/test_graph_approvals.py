"""What a graph asks people: who may answer what and when, and what becomes of a question that nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from tests.definitions import edge, graph, nested, stage
from tests.graph_programs import SideBySide
from tests.graphs import (
    asks,
    error_of,
    output_of,
    result_in_failure,
    row,
    timeless,
    undo,
    undone,
    until_asked,
    until_told,
    visits,
    when,
    writes,
)
from tests.support import World, events_of, served

Handle = WorkflowHandle[Any, Any]


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, SideBySide) as world:
        yield world


FIELDS = [
    {"name": "go", "label": "Go?", "options": ["yes", "no", 1], "required": True},
    {"name": "why", "field_type": "text"},
]


def approval(prompt: str = "Go?", **fields: Any) -> dict[str, Any]:
    """A question whose answer is at `answer`."""
    return {"type": "approval", "prompt": prompt, "output_key": "answer", **fields}


async def resolve(handle: Handle, answer: Any) -> Any:
    """Answer, as a client does."""
    return await handle.execute_update("resolve_approval", answer)


async def refusal(handle: Handle, answer: Any) -> str:
    """Why an answer is refused."""
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await resolve(handle, answer)
    assert isinstance(refused.value.cause, ApplicationError)
    return refused.value.cause.message.removeprefix("ApprovalRejected: ")


async def test_approval_is_written_down_and_decides(world: World) -> None:
    """The answer at output_key, its fields below, its text at `stage.<id>.answer`; then the edges. Who is kept too."""
    definition = graph(
        stage("ask", approval("Ship {{what}}?", fields=FIELDS)),
        stage("ship"),
        stage("stop"),
        edges=[edge("ask", "ship", when("answer.go", "yes")), edge("ask", "stop")],
        initial_state={"what": "it"},
    )
    handle = await world.start("StageGraph", definition)
    [request] = await until_asked(handle)
    assert timeless(request) == {
        "id": "0.ask",
        "stage": "ask",
        "prompt": "Ship it?",
        "fields": [
            {"name": "go", "label": "Go?", "options": ["yes", "no", 1], "required": True},
            {"name": "why"},
        ],
    }
    given = {"id": "0.ask", "response": {"go": "yes"}, "answered_by": "ada"}
    assert await resolve(handle, given) == given
    result = timeless(await handle.result())
    assert visits(result) == ["ask", "ship"]
    assert output_of(result, "ask") == {"type": "approval", "response": {"go": "yes"}, "answered_by": "ada"}
    state = {key: value for key, value in result["final_state"].items() if key.startswith(("answer", "stage.ask"))}
    assert state == {
        "answer": {"go": "yes"},
        "answer.go": "yes",
        "answer.why": None,
        "stage.ask.succeeded": True,
        "stage.ask.answer": '{"go":"yes"}',
    }
    assert [event for event in await events_of(handle) if event["type"].startswith("approval_")] == [
        {"type": "approval_asked", "id": "0.ask", "stage": "ask", "prompt": "Ship it?"},
        {"type": "approval_resolved", "id": "0.ask", "answered_by": "ada"},
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"id": "0.ask", "response": {}}, "field 'go' is required and has no value."),
        ({"id": "0.ask", "response": {"go": None}}, "field 'go' is required and has no value."),
        ({"id": "0.ask", "response": {"go": ""}}, "field 'go' is required and has no value."),
        ({"id": "0.ask", "response": {"go": "maybe"}}, "field 'go' is 'maybe'; the options are 'yes', 'no', 1."),
        ({"id": "0.ask", "response": {"go": True}}, "field 'go' is True; the options are 'yes', 'no', 1."),
        ({"id": "0.ask", "response": "yes"}, "the response is 'yes'; expected an object with the fields 'go', 'why'."),
        ({"id": "0.ask"}, "resolve_approval: 'response' is missing."),
        ({"id": "ask", "response": {"go": "yes"}}, "no approval 'ask' is waiting. Waiting are '0.ask'."),
        (
            {"id": "0.ask", "response": {"go": "yes"}, "by": "ada"},
            "resolve_approval: 'by' is not known. Known are 'answered_by', 'id', 'response'.",
        ),
        ("yes", "resolve_approval is 'yes'; input should be an object."),
    ],
    ids=["missing", "null", "blank", "option", "true", "no object", "no response", "id", "unknown", "text"],
)
async def test_bad_answer_is_refused_and_the_run_keeps_waiting(world: World, answer: Any, told: str) -> None:
    """Required fields and options; a refused answer leaves no trace in the history."""
    handle = await world.start("StageGraph", graph(stage("ask", approval(fields=FIELDS))))
    await until_asked(handle)
    assert await refusal(handle, answer) == told
    kinds = {EventType.Name(event.event_type) for event in (await handle.fetch_history()).events}
    assert not any("UPDATE" in kind for kind in kinds)
    await resolve(handle, {"id": "0.ask", "response": {"go": 1}})
    assert (await handle.result())["final_state"]["answer.go"] == 1


@pytest.mark.parametrize("response", ["yes", None, 0, [1, {"a": 2}], {"any": "thing"}], ids=repr)
async def test_approval_without_fields_takes_anything(world: World, response: Any) -> None:
    """Without fields there is nothing to check."""
    handle = await world.start("StageGraph", graph(stage("ask", approval())))
    await until_asked(handle)
    await resolve(handle, {"id": "0.ask", "response": response})
    assert (await handle.result())["final_state"]["answer"] == response


async def test_approval_is_answered_exactly_once(world: World) -> None:
    """Two people at once; one is taken, the other is told who was first."""
    handle = await world.start("StageGraph", row(stage("ask", approval()), stage("next", approval())))
    await until_asked(handle)
    names = ("ada", "bob")
    answers = ({"id": "0.ask", "response": name, "answered_by": name} for name in names)
    told = await asyncio.gather(*(resolve(handle, answer) for answer in answers), return_exceptions=True)
    [won] = [answer["answered_by"] for answer in told if not isinstance(answer, BaseException)]
    [lost] = [error for error in told if isinstance(error, WorkflowUpdateFailedError)]
    assert isinstance(lost.cause, ApplicationError)
    assert lost.cause.message.endswith(f"approval '0.ask' was answered already by {won!r}. The first answer counts.")
    [request] = await until_asked(handle)
    assert request["id"] == "1.next"
    await resolve(handle, {"id": "1.next", "response": "done"})
    result = await handle.result()
    assert output_of(result, "ask")["answered_by"] == won
    assert result["final_state"]["stage.ask.answer"] == won


async def test_several_approvals_wait_at_once(world: World) -> None:
    """Graphs side by side in one run; each question has an id of its own, and they are answered in any order."""
    graphs = [graph(stage("ask", approval(f"Question {number}"))) for number in range(3)]
    handle = await world.start("SideBySide", graphs)
    requests = await until_asked(handle, 3)
    assert [(request["id"], request["prompt"]) for request in requests] == [
        (f"{number}.ask", f"Question {number}") for number in range(3)
    ]
    for number in (1, 2, 0):
        await resolve(handle, {"id": f"{number}.ask", "response": number})
    assert [result["final_state"]["answer"] for result in await handle.result()] == [0, 1, 2]


async def test_stage_that_asks_again_asks_under_another_id(world: World) -> None:
    """A cycle over an approval: an answer to the first question is none to the second."""
    definition = graph(
        stage("ask", approval()), stage("end"), edges=[edge("ask", "ask", when("answer", "again")), edge("ask", "end")]
    )
    handle = await world.start("StageGraph", definition)
    await until_asked(handle)
    await resolve(handle, {"id": "0.ask", "response": "again"})
    [request] = await until_asked(handle)
    assert request["id"] == "1.ask"
    assert await refusal(handle, {"id": "0.ask", "response": "x"}) == (
        "approval '0.ask' was answered already. The first answer counts."
    )
    await resolve(handle, {"id": "1.ask", "response": "enough"})
    assert visits(await handle.result()) == ["ask", "ask", "end"]


async def test_deadline_fails_the_stage(world: World) -> None:
    """Timeout_ms with on_timeout fail, the default; the request says until when."""
    handle = await world.start(
        "StageGraph", row(stage("a", compensation=undo(back=1)), stage("ask", approval(timeout_ms=900)))
    )
    [request] = await until_asked(handle)
    asked, deadline = (datetime.fromisoformat(request[key]) for key in ("asked", "deadline"))
    assert deadline - asked == timedelta(milliseconds=900)
    result = await result_in_failure(handle)
    assert (result["status"], error_of(result, "ask")) == (
        "compensated",
        "approval 'ask' was not answered within 900ms",
    )


async def test_deadline_gives_the_default_answer(world: World) -> None:
    """On_timeout with an answer; the event says that no person gave it."""
    step = approval(fields=FIELDS, timeout_ms=300, on_timeout={"go": "no"})
    handle = await world.start("StageGraph", graph(stage("ask", step)))
    result = timeless(await handle.result())
    assert output_of(result, "ask") == {"type": "approval", "response": {"go": "no"}}
    assert result["final_state"]["answer.go"] == "no"
    [told] = await events_of(handle, "approval_resolved")
    assert told == {"type": "approval_resolved", "id": "0.ask", "by_deadline": True}
    timers = [
        event async for event in handle.fetch_history_events() if event.HasField("timer_started_event_attributes")
    ]
    assert [event.user_metadata.summary.data for event in timers] == [b'"ask waits for a person"']


async def test_answer_before_the_deadline_counts(world: World) -> None:
    """First answer wins; the deadline that follows changes nothing."""
    step = approval(timeout_ms=20_000, on_timeout={"late": True})
    handle = await world.start("StageGraph", graph(stage("ask", step)))
    await until_asked(handle)
    await resolve(handle, {"id": "0.ask", "response": "in time"})
    assert (await handle.result())["final_state"]["answer"] == "in time"


async def test_unanswered_question_can_be_routed(world: World) -> None:
    """On_failure route goes on where nobody answers."""
    definition = graph(
        stage("ask", approval(timeout_ms=300), on_failure="route"),
        stage("other"),
        edges=[edge("ask", "other", when("stage.ask.succeeded", False))],
    )
    handle = await world.start("StageGraph", definition)
    assert visits(await handle.result()) == ["ask", "other"]


async def test_approval_inside_a_sub_workflow(world: World) -> None:
    """A frame of the same run, so the same query and update serve it."""
    inner = nested(stage("ask", approval("Inner?")), stage("then", writes(n="{{answer}}")), edges=[edge("ask", "then")])
    handle = await world.start("StageGraph", graph(stage("sub", inner)))
    [request] = await until_asked(handle)
    assert (request["id"], request["prompt"]) == ("1.ask", "Inner?")
    await resolve(handle, {"id": "1.ask", "response": "yes", "answered_by": "ada"})
    inside = output_of(await handle.result(), "sub")["result"]
    assert inside["final_state"]["n"] == "yes"


async def test_cancelled_run_takes_its_question_back(world: World) -> None:
    """A run that is cancelled while it waits compensates; who answers then is told that nothing waits."""
    definition = graph(
        stage("a", compensation={"type": "stage_ref", "stage_id": "undo"}),
        stage("ask", approval()),
        stage("undo", asks("brief")),
        edges=[edge("a", "ask")],
    )
    handle = await world.start("StageGraph", definition)
    await until_asked(handle)
    await handle.cancel()
    await until_told(handle, "compensation_started")
    assert await refusal(handle, {"id": "0.ask", "response": 1}) == "no approval '0.ask' is waiting. None is waiting."
    result = await result_in_failure(handle, "cancelled")
    assert undone(result) == [("a", "compensated")]
    assert error_of(result, "ask") == "the run was cancelled"


async def test_waiting_for_a_person_is_in_the_current_details(world: World) -> None:
    """The stock UI says who must act."""
    handle = await world.start("StageGraph", graph(stage("ask", approval("Ship it?"))))
    await until_asked(handle)
    details = await handle.query("__temporal_workflow_metadata")
    assert "a person must answer `0.ask`: Ship it?" in str(details)
    await resolve(handle, {"id": "0.ask", "response": 1})
    await handle.result()
