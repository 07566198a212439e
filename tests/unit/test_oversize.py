"""What children carried, or many agents answered, is trimmed some at a time, to the result that it has in one go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic import JsonValue

from workflows import wire
from workflows.graph.results import (
    ActionResult,
    AgentOutput,
    ApprovalOutput,
    CarriedOutputs,
    EmptyOutput,
    ForEachOutput,
    LoopOutput,
    PatternOutput,
    ProposalOutput,
    ProposalResult,
    StageOutput,
    StageResult,
    WorkflowResult,
)
from workflows.oversize import size_of, trimming, written


def nested(levels: int) -> JsonValue:
    """Lists in each other."""
    value: JsonValue = "at the bottom"
    for _ in range(levels):
        value = [value]
    return value


def brought(text: str, value: JsonValue = 1.5) -> tuple[StageOutput, ...]:
    """One output of several kinds."""
    action = ActionResult(action_id="a", status="succeeded", output=value, state_changes={"k": value})
    agent = AgentOutput(name="a", answer=text)
    return (
        EmptyOutput(),
        ProposalOutput(result=ProposalResult(proposal_id="p", results=(action,))),
        PatternOutput(outputs=(agent, agent), final_answer=text),
        LoopOutput(iterations=1, satisfied=True, iterations_output=(ApprovalOutput(response=value),)),
    )


def carried(outputs: Sequence[StageOutput]) -> ForEachOutput:
    """The outputs as a run holds them whose children carried the items."""
    told = tuple(written(output) for output in outputs)
    return ForEachOutput(items=len(outputs)).carrying(CarriedOutputs(answers=("",) * len(outputs), written=told))


def result(*outputs: StageOutput) -> WorkflowResult:
    """A graph's result with a stage for each output."""
    return WorkflowResult(
        workflow_id="g",
        workflow_name="g",
        status="completed",
        stages=tuple(
            StageResult(stage_id=f"s{at}", stage_name="", status="succeeded", output=output, duration_ms=1)
            for at, output in enumerate(outputs)
        ),
        compensations=(),
        duration_ms=1,
        timestamp="2026-01-01T00:00:00Z",
        final_state={"key": "value"},
    )


def trimmed(whole: WorkflowResult, limit: int | None) -> tuple[bytes, int]:
    """What a run would return, and in how many parts that was found."""
    work, parts = trimming(whole, limit), 1
    while True:
        try:
            next(work)
        except StopIteration as end:
            return wire.encode(end.value), parts
        parts += 1


SMALL = brought("a")
LARGE = brought("l" * 20_000, ["v" * 15_000, 1, None])


@pytest.mark.parametrize(
    ("outputs", "limit"),
    [
        (SMALL, None),
        (SMALL * 300, None),
        (LARGE, None),
        (LARGE * 60, None),
        ((*SMALL, *LARGE * 5), 50_000),
        (SMALL * 300, 50_000),
        (brought("a", nested(170)), None),
        (brought("a", nested(186)), None),
        (brought("a", nested(400)), None),
    ],
    ids=["small", "many", "large", "shortened", "shortened anew", "left out", "flat", "deep", "deeper"],
)
def test_outputs_of_children_are_trimmed_as_the_runs_own(outputs: tuple[StageOutput, ...], limit: int | None) -> None:
    """Whole, shortened or left out, it is the same result; also where another stage follows."""
    own = ForEachOutput(items=len(outputs), outputs=outputs)
    for following in ((), brought("b")):
        expected, _ = trimmed(result(own, *following), limit)
        assert trimmed(result(carried(outputs), *following), limit)[0] == expected


@pytest.mark.parametrize("outputs", [SMALL, LARGE, SMALL * 300], ids=["small", "large", "many"])
def test_size_of_a_stage_is_found_without_reading_its_outputs(outputs: tuple[StageOutput, ...]) -> None:
    """The same for those of children as for the run's own, and as it is written."""
    own, told = result(ForEachOutput(items=len(outputs), outputs=outputs)), result(carried(outputs))
    assert size_of(told.stages[0]) == size_of(own.stages[0]) == wire.size(own.stages[0]) == wire.size(told.stages[0])


def test_outputs_of_children_in_other_outputs_are_the_runs_own() -> None:
    """In a loop, or wherever a result is written in one go."""
    own, told = ForEachOutput(items=4, outputs=SMALL), carried(SMALL)
    assert wire.encode(told) == wire.encode(own) == wire.encode(wire.plain(told))
    assert wire.measure(told, small=0) == wire.size(own) <= wire.measure(told)
    loops = [LoopOutput(iterations=1, satisfied=True, iterations_output=(each,)) for each in (own, told)]
    assert trimmed(result(loops[1]), None) == trimmed(result(loops[0]), None)
    assert StageResult.model_validate_json(wire.encode(result(told).stages[0])) == result(own).stages[0]


@pytest.mark.parametrize("limit", [None, 100_000])
@pytest.mark.parametrize("text", ["a", "l" * 20_000])
def test_many_outputs_of_agents_are_trimmed_as_few(text: str, limit: int | None) -> None:
    """In more parts, and to the same result."""
    agents = tuple(AgentOutput(name=f"a{at}", answer=text, outcome=nested(at // 10)) for at in range(2_500))
    few, many = [PatternOutput(outputs=agents, final_answer=text) for _ in range(2)]
    expected, parts = trimmed(result(few), limit)
    found, more_parts = trimmed(result(many.of_many()), limit)
    assert (found, more_parts > parts) == (expected, True)


@pytest.mark.parametrize(("limit", "parts"), [(None, 7), (100_000, 15)])
def test_outputs_of_children_are_trimmed_in_parts(limit: int | None, parts: int) -> None:
    """However many there are, a part is a thousand of them: histories hold how many parts there were."""
    outputs = carried(SMALL[1:2] * 4_999)
    assert trimmed(result(outputs), limit)[1] == parts
