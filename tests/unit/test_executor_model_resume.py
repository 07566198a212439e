"""The model executor: going on where another attempt ended, grants, and waiting for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError

from activities.blobs import Checkpoints
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import tool
from tests.model_steps import KEY, ModelSteps, model_steps
from tests.provider import (
    Answer,
    Cut,
    Hang,
    Refusal,
    Reply,
    Request,
    Script,
    Tokens,
    ToolCall,
    always,
    by_turn,
    call_tool,
    turns_taken,
)
from tests.support import wait_until
from workflows.graph.policies import DenyToolParam
from workflows.steps import (
    AgentSpec,
    AnswersNeeded,
    Delegation,
    Resume,
    StepOutcome,
    TokensNeeded,
    ToolRequest,
    Usage,
)

BOOM = Refusal(500, "Boom.")

CALLS: list[tuple[str, Any]] = []
"""Keys and arguments of the calls that the tools of the running test had."""
FAULTY: list[str] = []
"""Places whose next look takes the worker down."""


class Died(BaseException):
    """What takes a worker down in the middle of a call."""


@pytest.fixture
async def steps(tmp_path: Path) -> AsyncIterator[ModelSteps]:
    CALLS.clear()
    FAULTY.clear()
    async with model_steps(tmp_path) as steps:
        steps.tools = (look, drop)
        yield steps


async def look(place: str, context: ToolContext) -> str:
    """Look somewhere."""
    CALLS.append((context.idempotency_key, place))
    if place in FAULTY:
        FAULTY.remove(place)
        await asyncio.Event().wait()
    return f"a {place}"


@tool(requires_approval=True)
def drop(table: str, context: ToolContext) -> str:
    """Drop a table."""
    CALLS.append((context.idempotency_key, table))
    if table == "locked":
        raise ToolFailed("it is locked")
    return f"{table} is gone"


def _failing_at(turn: int, fault: Reply, script: Script) -> Script:
    """The script, with one fault at a turn."""
    met: list[int] = []

    def faulty(request: Request, number: int) -> Reply:
        if turns_taken(request) + 1 == turn and not met:
            met.append(number)
            return fault
        return script(request, number)

    return faulty


def _pair(*places: str) -> Answer:
    return Answer(calls=tuple(ToolCall("look", {"place": place}) for place in places), tokens=Tokens(10, 2))


@pytest.mark.parametrize("with_store", [True, False])
async def test_model_goes_on_after_a_failure(steps: ModelSteps, with_store: bool) -> None:
    """What was answered is never asked again, and no tool called twice; usage counts on. Without a store, too, while
    the conversation is small."""
    script = _failing_at(3, BOOM, by_turn(_pair("cellar"), _pair("attic"), Answer("empty", tokens=Tokens(30, 4))))
    with pytest.raises(ApplicationError):
        await steps.run(script, with_store=with_store)
    details = [] if with_store else [steps.beats[-1]]
    outcome = await steps.run(attempt=2, heartbeat_details=details, with_store=with_store)
    assert outcome.output == "empty"
    assert outcome.usage == Usage(input_tokens=50, output_tokens=8, requests=3, tool_calls=2)
    assert [place for _, place in CALLS] == ["cellar", "attic"]
    assert [call.messages for call in steps.provider.ledger.calls() if call.billed] == [1, 3, 5]
    assert steps.provider.ledger.asked_twice() == {}


async def test_model_keeps_one_piece_for_each_answer_and_result(steps: ModelSteps) -> None:
    """Each piece holds what is new, and carries what was spent until then."""
    await steps.run(by_turn(_pair("cellar", "attic"), Answer("empty", tokens=Tokens(30, 4))))
    kept = await Checkpoints(steps.store, KEY).all()
    assert [list(piece) for piece in await steps.pieces()] == [["answer"], ["result"], ["result"], ["answer"]]
    assert [(left.usage.total_tokens, left.usage.tool_calls) for left in kept] == [(12, 0), (12, 1), (12, 2), (46, 2)]


async def test_model_that_was_killed_in_a_tool_calls_only_that_one_again(steps: ModelSteps) -> None:
    """Of the calls of a turn those with a result stand; the other is made again, with the same key."""
    FAULTY.append("attic")
    steps.provider.script = by_turn(_pair("cellar", "attic"), Answer("both"))
    attempt = asyncio.create_task(steps.run())

    async def cellar_is_kept() -> bool:
        return sum("result" in piece for piece in await steps.pieces()) == 1

    await wait_until("the first result is kept", cellar_is_kept)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    outcome = await steps.run(attempt=2)
    assert outcome.output == "both"
    (key, _), again = CALLS[1], CALLS[2]
    assert ([place for _, place in CALLS], again) == (["cellar", "attic", "attic"], (key, "attic"))
    assert steps.told()[-2:] == [("tool", "a cellar"), ("tool", "a attic")]
    assert steps.provider.ledger.asked_twice() == {}


async def test_model_that_had_answered_is_not_asked_again(steps: ModelSteps) -> None:
    """An attempt whose outcome was lost costs the next one nothing."""
    first = await steps.run(always(Answer("done", tokens=Tokens(5, 5))))
    assert await steps.run(attempt=2) == first.model_copy(update={"attempts": 2})
    assert len(steps.provider.requests) == 1


async def test_model_that_is_cancelled_keeps_what_it_spent(steps: ModelSteps) -> None:
    """A cancel ends the request at once, and the outcome says what was spent."""
    steps.provider.script = by_turn(_pair("cellar"), Hang())
    attempt = asyncio.create_task(steps.run())

    async def hangs() -> bool:
        return len(steps.provider.requests) == 2

    await wait_until("the second request hangs", hangs)
    steps.environment.cancel(cancellation_details=ActivityCancellationDetails(cancel_requested=True))
    outcome = await attempt
    assert (outcome.status, outcome.usage) == (
        "cancelled",
        Usage(input_tokens=10, output_tokens=2, requests=1, tool_calls=1),
    )


async def test_model_beyond_what_is_kept_inline_says_so(steps: ModelSteps) -> None:
    """Without a store a long conversation goes on unkept, and the run is told."""
    outcome = await steps.run(call_tool("look", 4, {"place": "x" * 800}), with_store=False)
    assert (outcome.output, outcome.warnings) == (
        "done",
        (
            "A checkpoint of more than 3,072 bytes was not kept, so another attempt starts from an earlier one, or "
            "anew. Set PERDURE_BLOBS to a folder or a bucket that all workers share.",
        ),
    )


async def test_model_takes_along_what_was_kept_without_a_store(steps: ModelSteps) -> None:
    """A worker that has a store goes on from what one without left in the heartbeat."""
    script = _failing_at(2, BOOM, by_turn(_pair("cellar"), _pair("attic"), Answer("empty")))
    with pytest.raises(ApplicationError):
        await steps.run(script, with_store=False)
    steps.provider.script = _failing_at(3, BOOM, script)
    with pytest.raises(ApplicationError):
        await steps.run(attempt=2, heartbeat_details=[steps.beats[-1]])
    assert (await steps.run(attempt=3)).output == "empty"
    assert [place for _, place in CALLS] == ["cellar", "attic"]
    assert steps.provider.ledger.asked_twice() == {}


async def test_model_refuses_a_transcript_of_another_shape(steps: ModelSteps) -> None:
    """What a newer worker wrote is not guessed at."""
    await Checkpoints(steps.store, KEY).append({"thought": 1}, Usage())
    outcome = await steps.run()
    assert outcome.error == (
        "the transcript that step 't' left cannot be read here: a piece of the transcript has another shape. A newer "
        "worker may have written it: leave none of the older ones running"
    )


def _granted(tokens: int, outcome: StepOutcome | None = None) -> dict[str, Any]:
    resume = Resume(transcript=outcome.transcript, usage=outcome.usage) if outcome else None
    return {"grant": {"tokens": tokens}, "resume": resume}


async def test_model_is_held_to_its_grant(steps: ModelSteps) -> None:
    """A request's max_tokens is what the grant leaves after the prompt; what was counted before is not estimated."""
    script = by_turn(Answer(calls=(ToolCall("look", {"place": "x"}),), tokens=Tokens(100, 50)), Answer("end"))
    await steps.run(script, call=_granted(2_000), agent={"tools": (), "max_output_tokens": None})
    first, second = (call.max_tokens for call in steps.provider.ledger.calls())
    assert first == 2_000 - 9  # 'Go.' and what stands around it
    told = len("There is no tool 'look'. No tool can be called.")
    assert second == 2_000 - 150 - (150 + 8 + -(-told // 3) + -(-len("look") // 3))


async def test_model_short_of_tokens_is_suspended_and_goes_on(steps: ModelSteps) -> None:
    """Too little left for another answer ends the attempt from its checkpoint; with more it goes on."""
    looking = Answer(calls=(ToolCall("look", {"place": "cellar"}),), tokens=Tokens(150, 50))
    short = await steps.run(by_turn(looking, Answer("empty", tokens=Tokens(220, 3))), call=_granted(400))
    assert (short.status, short.needs) == ("suspended", TokensNeeded(at_least=469))
    assert short.error == (
        "step 't' has used 200 of the 400 tokens granted to it, and the next model call is estimated at 469"
    )
    outcome = await steps.run(call=_granted(700, short))
    assert outcome.output == "empty"
    assert outcome.usage == Usage(input_tokens=370, output_tokens=53, requests=2, tool_calls=1)
    assert steps.provider.ledger.asked_twice() == {}


async def test_model_answer_that_the_grant_cut_is_none(steps: ModelSteps) -> None:
    """It is paid for once, it is no answer, and the step asks for twice as much."""
    steps.tools = ()
    script = always(Answer("word " * 500, tokens=Tokens(10, 600)))
    cut = await steps.run(script, call=_granted(400))
    cap = 400 - 9
    assert (cut.status, cut.needs) == ("suspended", TokensNeeded(at_least=9 + 2 * cap))
    assert cut.usage == Usage(input_tokens=10, output_tokens=cap, requests=1)
    assert await steps.pieces() == [{"cut": cap}]
    outcome = await steps.run(call=_granted(1_000, cut))
    assert (outcome.success, outcome.usage.total_tokens) == (True, 10 + cap + 610)


async def test_model_structured_answer_that_the_grant_cut_is_none(steps: ModelSteps) -> None:
    """Not even where what is left of it would fit."""
    steps.tools = ()
    script = always(Answer('{"a": {"n": 1}} and more' * 100, tokens=Tokens(10, 600)))
    cut = await steps.run(script, call=_granted(400), spec={"output_schema": {"type": "object"}})
    assert (cut.status, cut.success, cut.structured) == ("suspended", False, None)


@pytest.mark.parametrize("schema", [None, {"type": "object"}])
async def test_model_answer_that_its_agent_cut_fails(steps: ModelSteps, schema: dict[str, Any] | None) -> None:
    """An answer beyond max_output_tokens never comes out as ok."""
    script = always(Answer('{"n": 1} ' * 200, tokens=Tokens(10, 600)))
    outcome = await steps.run(script, agent={"max_output_tokens": 100}, spec={"output_schema": schema})
    assert (outcome.status, outcome.error) == (
        "failed",
        "agent 'a': model 'scripted' was cut at 100 tokens by 'max_output_tokens'. Raise it, or ask for less",
    )
    assert outcome.usage == Usage(input_tokens=10, output_tokens=100, requests=1)


async def test_model_asks_for_much_only_where_it_is_needed(steps: ModelSteps) -> None:
    """However large the grant, the first request stays within what every large model takes."""
    steps.tools = ()
    script = always(Answer("word", tokens=Tokens(10, 20_000)))
    outcome = await steps.run(script, call=_granted(1_000_000))
    assert outcome.success
    assert [call.max_tokens for call in steps.provider.ledger.calls()] == [16_384, 32_768]
    assert outcome.usage == Usage(input_tokens=20, output_tokens=36_384, requests=2)


async def test_model_hands_subtasks_to_specialists(steps: ModelSteps) -> None:
    """The other calls of the turn are made first; then the step waits, and goes on with what came."""
    handed = ToolCall("delegate", {"specialist": "poet", "subtask": "A line."})
    script = by_turn(Answer(calls=(handed, ToolCall("look", {"place": "x"})), tokens=Tokens(10, 2)), Answer("sung"))
    spec = {"specialists": (AgentSpec(name="poet", system_prompt="You rhyme.\nAlways."),)}
    waiting = await steps.run(script, spec=spec)
    assert isinstance(waiting.needs, AnswersNeeded)
    [asked] = waiting.needs.delegations
    assert asked == Delegation(call_id=asked.call_id, specialist="poet", subtask="A line.")
    text = "agent 'a' waits for specialist 'poet'"
    assert (waiting.status, waiting.error, waiting.output) == ("suspended", text, f"Task failed: {text}")
    assert waiting.usage == Usage(input_tokens=10, output_tokens=2, requests=1, tool_calls=1)
    described = steps.provider.requests[0]["tools"][-1]["function"]
    assert described["description"].splitlines()[1:] == ["- poet: You rhyme."]

    again = await steps.run(spec=spec, call={"resume": Resume(transcript=waiting.transcript, usage=waiting.usage)})
    assert (again.needs, len(steps.provider.requests)) == (waiting.needs, 1)
    resume = Resume(transcript=waiting.transcript, usage=waiting.usage, answers={asked.call_id: "Roses."})
    outcome = await steps.run(spec=spec, call={"resume": resume})
    assert (outcome.output, [place for _, place in CALLS]) == ("sung", ["x"])
    assert steps.told()[-2:] == [("tool", "Roses."), ("tool", "a x")]
    assert steps.provider.ledger.asked_twice() == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"specialist": "bard", "subtask": "x"}, "There is no specialist 'bard'. The specialists are: 'b'."),
        ({"specialist": "b"}, "'delegate' takes 'specialist' and 'subtask', both texts."),
    ],
)
async def test_model_is_told_which_specialists_there_are(
    steps: ModelSteps, arguments: dict[str, str], told: str
) -> None:
    """A specialist that is not there suspends nothing."""
    outcome = await steps.run(call_tool("delegate", 1, arguments), agent={"delegates": ("b",)})
    assert outcome.output == "done"
    assert told in steps.told()[-1][1]


@pytest.mark.parametrize(
    ("decision", "calls", "told"),
    [
        ({"decision": "approve"}, ["users"], "users is gone"),
        ({"decision": "deny", "message": "Not today."}, [], "A person denied this call: Not today."),
        ({"decision": "deny"}, [], "A person denied this call."),
        (
            {"decision": "edit", "arguments": {"table": "drafts"}},
            ["drafts"],
            'A person changed the arguments to {"table":"drafts"}.\ndrafts is gone',
        ),
        ({"decision": "edit", "arguments": {"table": "payroll"}}, [], "param 'table' matches 'pay'"),
    ],
    ids=["approve", "deny", "deny without a word", "edit", "edit beyond the policies"],
)
async def test_model_waits_for_a_person(
    steps: ModelSteps, decision: dict[str, Any], calls: list[str], told: str
) -> None:
    """A tool that needs approval is called as the person decided, and the policies stand above the person."""
    steps.policies = (DenyToolParam(target="drop", key="table", pattern="pay"),)
    script = call_tool("drop", 1, {"table": "users"})
    agent = {"approval_timeout_seconds": 60}
    waiting = await steps.run(script, agent=agent)
    assert isinstance(waiting.needs, AnswersNeeded)
    [asked] = waiting.needs.approvals
    assert asked == ToolRequest(call_id=asked.call_id, tool="drop", arguments={"table": "users"}, timeout_seconds=60)
    assert (waiting.error, CALLS) == ("agent 'a' waits for a decision about tool 'drop'", [])
    resume = Resume(transcript=waiting.transcript, usage=waiting.usage, answers={asked.call_id: decision})
    outcome = await steps.run(agent=agent, call={"resume": resume})
    assert (outcome.output, [table for _, table in CALLS]) == ("done", calls)
    assert steps.told()[-1] == ("tool", told)


async def test_model_asks_a_person_only_about_calls_that_can_be_made(steps: ModelSteps) -> None:
    """Arguments that do not fit go back to the model first."""
    await steps.run(call_tool("drop", 1, {"table": 3}))
    assert "The arguments do not fit, at $.table: 3 is not of type 'string'" in steps.told()[-1][1]


async def test_model_refuses_an_answer_that_is_no_decision(steps: ModelSteps) -> None:
    """A wrong answer is the workflow's fault, and told."""
    waiting = await steps.run(call_tool("drop", 1, {"table": "users"}))
    assert isinstance(waiting.needs, AnswersNeeded)
    call_id = waiting.needs.approvals[0].call_id
    outcome = await steps.run(call={"resume": Resume(answers={call_id: "yes"})})
    assert outcome.error == (
        f"the answer to the call {call_id!r} of tool 'drop' is 'yes'; it takes a decision: approve, deny or edit"
    )


async def test_model_cannot_wait_with_what_is_not_kept(steps: ModelSteps) -> None:
    """Without a store a long conversation could not go on after the answer."""
    outcome = await steps.run(call_tool("drop", 1, {"table": "x" * 4_000}), with_store=False)
    assert outcome.error == (
        "agent 'a' waits for answers, and its conversation could not be kept until they come. Set PERDURE_BLOBS to a "
        "folder or a bucket that all workers share"
    )


async def test_model_request_that_broke_off_is_asked_again(steps: ModelSteps) -> None:
    """The one call in flight is the one that may be billed twice."""
    script = _failing_at(2, Cut(Answer("half an answer")), by_turn(_pair("cellar"), Answer("whole")))
    with pytest.raises(ApplicationError):
        await steps.run(script)
    assert (await steps.run(attempt=2)).output == "whole"
    assert list(steps.provider.ledger.asked_twice().values()) == [2]
    assert steps.provider.ledger.answered_twice() == {}
