"""The model executor: answers, tools, limits, and answers in a form."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from activities.executors.model.toolset import RESULT_CHARACTERS
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.source import OfferedTool
from tests.model_steps import KEY, ModelSteps, model_steps
from tests.provider import Answer, Tokens, ToolCall, always, by_turn, call_tool, structured
from workflows.graph.policies import DenyTool
from workflows.steps import AgentSpec, StepOutcome, Usage

CALLS: list[tuple[str, Any]] = []
"""What the tools of the running test were called with."""

AnswerSchema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
async def steps(tmp_path: Path) -> AsyncIterator[ModelSteps]:
    CALLS.clear()
    async with model_steps(tmp_path) as steps:
        steps.tools = (look, fail, both)
        yield steps


def look(place: str, context: ToolContext) -> str:
    """Look somewhere.

    Args:
        place: Where.
    """
    CALLS.append((context.idempotency_key, place))
    return f"a {place}"


def fail() -> None:
    """Always fails."""
    raise ToolFailed("the disk is full")


MEETING: list[asyncio.Event] = []


async def both(number: int) -> int:
    """Ends when the other call has begun."""
    MEETING[number].set()
    async with asyncio.timeout(10):
        await MEETING[1 - number].wait()
    return number


def _outcome(**fields: Any) -> StepOutcome:
    named = {"task_id": "t", "session_id": "task-run-t", "agent": "a"}
    return StepOutcome.model_validate({"output": "", "success": True, **named, **fields})


def _failed(text: str, **fields: Any) -> StepOutcome:
    return _outcome(**{"output": f"Task failed: {text}", "success": False, "status": "failed", "error": text, **fields})


def _usage(*answers: Tokens, tool_calls: int = 0) -> Usage:
    return Usage(
        input_tokens=sum(tokens.input for tokens in answers),
        output_tokens=sum(tokens.output for tokens in answers),
        requests=len(answers),
        tool_calls=tool_calls,
    )


async def test_model_answers(steps: ModelSteps) -> None:
    """Instructions and prompt go out with the agent's settings; the answer's text is the output."""
    outcome = await steps.run(
        always(Answer("Done.", tokens=Tokens(20, 3))),
        agent={
            "instructions": "Be brief.",
            "temperature": 0.3,
            "max_output_tokens": 500,
            "tools": (),
            "settings": {"seed": 7, "extra_body": {"top_k": 4}},
        },
    )
    assert outcome == _outcome(output="Done.", usage=_usage(Tokens(20, 3)))
    assert steps.told() == [("system", "Be brief."), ("user", "Go.")]
    request = steps.provider.requests[0]
    assert {key: request[key] for key in ("model", "temperature", "max_completion_tokens", "seed", "top_k")} == {
        "model": "scripted",
        "temperature": 0.3,
        "max_completion_tokens": 500,
        "seed": 7,
        "top_k": 4,
    }


async def test_model_without_an_answer_fails(steps: ModelSteps) -> None:
    """A blank answer is none."""
    outcome = await steps.run(always(Answer(" ", tokens=Tokens(9, 1))))
    assert outcome == _failed("child agent returned no final output", usage=_usage(Tokens(9, 1)))


async def test_model_calls_tools_until_it_answers(steps: ModelSteps) -> None:
    """A tool is described by its signature, called with a key of its own, and its result goes back."""
    calls = Answer("First I look.", (ToolCall("look", {"place": "cellar"}),), Tokens(30, 5))
    outcome = await steps.run(by_turn(calls, Answer("A cellar.", tokens=Tokens(50, 4))))
    assert outcome == _outcome(output="A cellar.", usage=_usage(Tokens(30, 5), Tokens(50, 4), tool_calls=1))
    [(key, place)] = CALLS
    assert (key.partition("/")[0], place) == (KEY, "cellar")
    assert steps.told() == [("user", "Go."), ("assistant", "First I look."), ("tool", "a cellar")]
    described = steps.provider.requests[0]["tools"][0]["function"]
    assert (described["name"], described["description"]) == ("look", "Look somewhere.")
    assert described["parameters"]["properties"] == {"place": {"type": "string", "description": "Where."}}


async def test_model_calls_the_tools_of_a_turn_at_once(steps: ModelSteps) -> None:
    """Calls of one turn run side by side, and their results stand in the order in which they were asked for."""
    MEETING[:] = [asyncio.Event(), asyncio.Event()]
    pair = (ToolCall("both", {"number": 1}), ToolCall("both", {"number": 0}))
    outcome = await steps.run(by_turn(Answer(calls=pair), Answer("met")))
    assert (outcome.output, outcome.usage.tool_calls) == ("met", 2)
    assert steps.told()[2:] == [("tool", "1"), ("tool", "0")]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        pytest.param(
            ToolCall("lok", {}), "There is no tool 'lok'. The tools are: 'look', 'fail', 'both'.", id="no such tool"
        ),
        pytest.param(ToolCall("look", '{"place": '), 'The arguments are not a JSON object: {"place": ', id="no JSON"),
        pytest.param(ToolCall("look", "[1]"), "The arguments are not a JSON object: [1]", id="no object"),
        pytest.param(
            ToolCall("look", {"plaice": "x"}),
            "missing required parameter 'place' for tool 'look'; unknown parameter 'plaice' for tool 'look'; the "
            "nearest known one is 'place'",
            id="wrong parameters",
        ),
        pytest.param(ToolCall("fail"), "the disk is full", id="failure"),
    ],
)
async def test_model_is_told_of_its_faults(steps: ModelSteps, call: ToolCall, told: str) -> None:
    """A call that cannot be made, or fails, ends nothing: the model reads why."""
    outcome = await steps.run(by_turn(Answer(calls=(call,)), Answer("Never mind.")))
    assert (outcome.output, outcome.success) == ("Never mind.", True)
    role, text = steps.told()[-1]
    assert (role, json.loads(text)) == ("tool", {"error": told})


async def test_model_is_held_to_the_policies_of_the_worker(steps: ModelSteps) -> None:
    """What no action may do, no model may do either."""
    steps.policies = (DenyTool(target="look"),)
    outcome = await steps.run(call_tool("look", 1, {"place": "safe"}))
    assert (outcome.output, CALLS) == ("done", [])
    assert steps.told()[-1] == ("tool", "tool 'look' denied")


async def test_model_reads_long_results_in_part(steps: ModelSteps) -> None:
    """A result beyond the limit is cut, and says by how much."""
    steps.tools = (long,)
    await steps.run(call_tool("long", 1))
    kept, note = steps.told()[-1][1].split("\n\n")
    assert kept == "é" * RESULT_CHARACTERS
    assert note == "[10,000 of 60,000 characters are left out. Ask for a part of it, or for something narrower.]"


def long() -> str:
    """Says much."""
    return "é" * 60_000


async def test_model_stops_at_its_limit_of_tool_rounds(steps: ModelSteps) -> None:
    """One round more than allowed fails the step, with the last thing that the model said."""
    looking = Answer("Still looking.", (ToolCall("look", {"place": "well"}),), Tokens(10, 1))
    outcome = await steps.run(always(looking), spec={"max_steps": 2})
    text = "agent 'a' reached its limit of 2 tool rounds ('max_steps')"
    usage = _usage(*[Tokens(10, 1)] * 3, tool_calls=2)
    assert outcome == _failed(text, output=f"Task failed: {text}\n\nStill looking.", usage=usage)
    assert [place for _, place in CALLS] == ["well", "well"]


async def test_model_tool_calls_have_ids_of_their_own(steps: ModelSteps) -> None:
    """A server that counts its calls anew in each turn cannot make two of them one."""
    same = Answer(calls=(ToolCall("look", {"place": "x"}), ToolCall("look", {"place": "x"})))
    await steps.run(by_turn(same, same, Answer("enough")))
    assert len({key for key, _ in CALLS}) == 4


class Shed:
    """A source of two tools."""

    def __init__(self, schema: dict[str, JsonValue] | None = None, *, requires_approval: bool = False) -> None:
        self.schema: dict[str, JsonValue] = schema or {"type": "object"}
        self.requires_approval = requires_approval

    async def tools(self) -> Sequence[OfferedTool]:
        return [
            OfferedTool(name, f"Takes the {name}.", self.schema, self.take, self.requires_approval)
            for name in ("saw", "axe")
        ]

    async def take(
        self, arguments: dict[str, JsonValue], context: ToolContext, timeout_seconds: float | None
    ) -> JsonValue:
        return {"limit": timeout_seconds}

    async def close(self) -> None:
        return


@pytest.mark.parametrize(("named", "offered"), [(("shed",), ["saw", "axe"]), (("shed.axe",), ["axe"])])
async def test_model_is_offered_tools_of_a_source(
    steps: ModelSteps, named: tuple[str, ...], offered: list[str]
) -> None:
    """A source is named whole, or by one of its tools."""
    steps.sources = {"shed": Shed()}
    await steps.run(call_tool("axe", 1), agent={"tools": named, "tool_timeout_seconds": 7})
    assert [tool["function"]["name"] for tool in steps.provider.requests[0]["tools"]] == offered
    assert steps.told()[-1] == ("tool", '{"limit":7.0}')


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("shed.hoe",), "agent 'a' names the tool 'shed.hoe'; 'shed' serves 'saw', 'axe'"),
        (("hoe",), "agent 'a' names the tool 'hoe', which this worker does not have"),
        (("shed", "saw"), "agent 'a' is offered two tools named 'saw'. Leave one of them out"),
    ],
)
async def test_model_is_refused_tools_that_are_not_there(steps: ModelSteps, named: tuple[str, ...], told: str) -> None:
    """Nothing is asked before every tool of the agent is known."""
    steps.sources, steps.tools = {"shed": Shed()}, (saw,)
    assert await steps.run(agent={"tools": named}) == _failed(told)
    assert steps.provider.requests == []


def saw() -> str:
    """Another saw."""
    return "saw"


async def test_model_is_refused_a_tool_with_the_name_of_its_answer(steps: ModelSteps) -> None:
    """A call of it would be taken for the answer."""
    steps.tools = (final_result,)
    assert await steps.run(spec={"output_schema": AnswerSchema}) == _failed(
        "agent 'a' answers in a form by the tool 'final_result', and has another one of that name. Rename it, or give "
        "its server a 'prefix'"
    )
    assert (await steps.run(by_turn(Answer(calls=(ToolCall("final_result"),)), Answer("Raced.")))).output == "Raced."


def final_result() -> str:
    """The result of the final."""
    return "3 : 2"


async def test_model_may_call_a_tool_whose_schema_is_none(steps: ModelSteps) -> None:
    """The schema of somebody else's tool is judged by its own server, before a person is asked as well."""
    steps.sources = {"shed": Shed({"type": "object", "properties": {"grip": {"pattern": "("}}}, requires_approval=True)}
    script = by_turn(Answer(calls=(ToolCall("axe", {"grip": "firm"}),)), Answer("Done."))
    asked = await steps.run(script, agent={"tools": ("shed",)})
    assert asked.error == "agent 'a' waits for a decision about tool 'axe'"


@pytest.mark.parametrize("schema", [AnswerSchema, {"anyOf": [AnswerSchema]}], ids=["native", "described"])
async def test_model_answers_in_a_form(steps: ModelSteps, schema: dict[str, Any]) -> None:
    """An object that fits is the structured result; one that does not goes back with what is wrong."""
    outcome = await steps.run(structured({"n": "one"}, {"n": 1}), spec={"output_schema": schema})
    assert (outcome.output, outcome.structured, outcome.success) == ('{"n": 1}', {"n": 1}, True)
    role, told = steps.told()[-1]
    assert role == "user"
    assert told.startswith("The answer does not fit its schema: at $")
    assert told.endswith("Give the whole answer again, as one JSON value that fits.")


async def test_model_without_a_schema_mode_answers_by_a_tool(steps: ModelSteps) -> None:
    """Where the model has no schema mode, the answer is the arguments of a tool, repaired in the same way."""
    steps.agent = {"name": "a", "model": f"python:{__name__}:plain_model"}
    outcome = await steps.run(spec={"output_schema": AnswerSchema})
    assert (outcome.structured, outcome.success) == ({"n": 2}, True)
    assert outcome.output == '{"n":2}'
    assert GIVEN == ["{", {"n": "two"}, {"n": 2}]


async def test_model_that_cannot_fit_the_form_is_demoted(steps: ModelSteps) -> None:
    """After two repairs the last answer stands, failed, and says why."""
    outcome = await steps.run(structured({"n": "one"}), spec={"output_schema": AnswerSchema})
    text = "structured output failed: at $.n: 'one' is not of type 'integer'"
    assert (outcome.output, outcome.success) == (f'{{"n": "one"}}\n\n[{text}]', False)
    assert (outcome.error, len(steps.provider.requests)) == (text, 3)


async def test_model_is_not_asked_for_a_form_that_is_none(steps: ModelSteps) -> None:
    """A schema that is no schema costs nothing."""
    outcome = await steps.run(spec={"output_schema": {"type": "objekt"}})
    assert outcome == _failed(
        "structured output failed: output_schema is not a valid JSON Schema: at $.type: 'objekt' is not valid under "
        "any of the given schemas"
    )
    assert steps.provider.requests == []


async def test_model_takes_a_profile(steps: ModelSteps) -> None:
    """What a step's profile says wins over the entry of its name, and stands alone where there is none."""
    profile = AgentSpec(
        name="a",
        system_prompt="You count.",
        tools=("look",),
        max_turns=1,
        metadata={"model": "other", "temperature": 0},
    )
    await steps.run(call_tool("look", 9, {"place": "x"}), spec={"profile": profile}, agent={"tools": ()})
    request = steps.provider.requests[0]
    assert (request["model"], request["temperature"], steps.told(0)[0]) == ("other", 0, ("system", "You count."))
    assert len(steps.provider.requests) == 2
    steps.default_model = f"python:{__name__}:plain_model"
    alone = await steps.run(spec={"agent": "b", "profile": AgentSpec(name="b")})
    assert alone.output == "plain answer"


async def test_model_profile_that_cannot_be_is_refused(steps: ModelSteps) -> None:
    """A profile comes with a run's input, so what is wrong in it is told there."""
    profile = AgentSpec(name="b", metadata={"model": "gpt-9", "provider": "opnai"})
    assert await steps.run(spec={"agent": "b", "profile": profile}) == _failed(
        "the profile of agent 'b' names the model 'opnai:gpt-9', which names the unknown provider 'opnai'; the nearest "
        "known one is 'openai'",
        agent="b",
    )
    hot = AgentSpec(name="b", metadata={"temperature": 3})
    assert await steps.run(spec={"agent": "b", "profile": hot}) == _failed(
        "the profile of agent 'b': 'temperature' is 3: Input should be less than or equal to 2", agent="b"
    )


async def test_model_shows_what_it_does(steps: ModelSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each heartbeat says turn and tool; the tokens stand beside it."""
    told: list[str] = []
    monkeypatch.setattr("activities.context.Attempt.report", lambda self, text: told.append(text))
    looking = Answer(calls=(ToolCall("look", {"place": "x"}),), tokens=Tokens(12_000, 431))
    await steps.run(by_turn(looking, Answer("end")))
    assert told == [
        "turn 1: asking …",
        "turn 1: look …",
        "turn 2: asking …",
    ]


async def test_model_echoes_a_lone_surrogate(steps: ModelSteps) -> None:
    """What no encoding takes is written out, in the prompt as in the answer."""
    outcome = await steps.run(always(Answer("a \udc00")), spec={"prompt": "half \ud800 pair"}, agent={"tools": ()})
    assert (steps.told(), outcome.output) == ([("user", "half \\ud800 pair")], "a \\udc00")


def test_model_libraries_load_where_a_model_runs() -> None:
    """A worker, and what reads agents.toml, load none of them."""
    script = (
        "import sys, worker, activities.agents, activities.registry, activities.executors.model; print(*sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {"pydantic_ai", "openai", "httpx2", "mcp"}


GIVEN: list[Any] = []
"""The final answers of the model without a schema mode."""


def _plain() -> Any:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    def answer(messages: list[Any], info: Any) -> ModelResponse:
        if info.output_tools:
            GIVEN.append(["{", {"n": "two"}, {"n": 2}][len(messages) // 2])
            return ModelResponse([ToolCallPart(info.output_tools[0].name, GIVEN[-1])])
        return ModelResponse([TextPart("plain answer")])

    return FunctionModel(answer, profile={})


plain_model = _plain()
