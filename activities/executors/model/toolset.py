"""Which tools a model is offered, and how a call of one ends.

Law: a call's end is a text for the model. A fault of the model (no such tool, wrong arguments), a tool's failure and a
policy's refusal are told to it, so that it can do better; none of them ends the step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor as Threads
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import JsonValue
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import ToolDefinition
from referencing.jsonschema import EMPTY_REGISTRY

from activities.blobs import plain_json
from activities.entries import ModelAgent
from activities.executors import Resources
from activities.executors.model.output import OUTPUT_TOOL
from activities.executors.model.transcript import Result
from activities.registry import DELEGATE, Registry
from activities.tools.calling import call_tool
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import ParametersRejected, Tool
from activities.tools.source import OfferedTool
from workflows.errors import StepFailed, cut
from workflows.graph.policies import ToolPolicy, violations
from workflows.steps import AgentStepSpec, Delegation, ToolDecision

RESULT_CHARACTERS = 50_000
# Some 15,000 tokens, and each later request of the step pays for them again. A model that needs more asks for a part.
QUOTED_CHARACTERS = 300
# A fault quotes the argument that is wrong.


@dataclass(frozen=True, slots=True)
class Specialist:
    """An agent that subtasks can be handed to."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that can be made: its tool, and what the tool is called with."""

    tool: OfferedTool
    arguments: dict[str, JsonValue]


class Toolset:
    """The tools of one agent."""

    def __init__(
        self,
        offered: Iterable[OfferedTool],
        *,
        policies: Sequence[ToolPolicy] = (),
        specialists: Sequence[Specialist] = (),
        timeout_seconds: float | None = None,
    ) -> None:
        self._offered = {tool.name: tool for tool in offered}
        self._policies = policies
        self.specialists = {specialist.name: specialist for specialist in specialists}
        self._timeout_seconds = timeout_seconds

    @classmethod
    async def of(cls, entry: ModelAgent, spec: AgentStepSpec, resources: Resources) -> Toolset:
        """What an agent may call in a step. Raises `StepFailed` where it names what is not there."""
        registry = resources.registry
        offered = await _offered(entry, resources)
        specialists = [
            *(Specialist(name, _description(registry, name)) for name in entry.delegates),
            *(Specialist(agent.name, _first_line(agent.system_prompt)) for agent in spec.specialists),
        ]
        if specialists and DELEGATE in offered:
            raise StepFailed(f"agent {entry.name!r} has specialists, and a tool named {DELEGATE!r}. Rename the tool")
        if spec.output_schema is not None and OUTPUT_TOOL in offered:
            raise StepFailed(
                f"agent {entry.name!r} answers in a form by the tool {OUTPUT_TOOL!r}, and has another one of that "
                "name. Rename it, or give its server a 'prefix'"
            )
        return cls(
            offered.values(),
            policies=registry.policies,
            specialists=specialists,
            timeout_seconds=entry.tool_timeout_seconds,
        )

    def definitions(self) -> list[ToolDefinition]:
        """The tools as a request describes them."""
        defined = [
            ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters)
            for tool in self._offered.values()
        ]
        return [*defined, _delegate(self.specialists.values())] if self.specialists else defined

    def asked(self, call: ToolCallPart) -> Asked | Delegation | Result:
        """What a call asks for, or its end where it cannot be made."""
        try:
            arguments: dict[str, JsonValue] = call.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            found = cut(str(call.args), QUOTED_CHARACTERS)
            return _sent_back(call, f"The arguments are not a JSON object: {found}")
        if call.tool_name == DELEGATE and self.specialists:
            return self._delegation(call, arguments)
        tool = self._offered.get(call.tool_name)
        if tool is None:
            return _sent_back(call, f"There is no tool {cut(call.tool_name)!r}. {self._known()}")
        return self.judged(call, Asked(tool, arguments))

    def judged(self, call: ToolCallPart, asked: Asked) -> Asked | Result:
        """The call if the worker's policies allow it; before a person is asked, if its arguments fit, too."""
        denied = violations(self._policies, tool=asked.tool.name, parameters=asked.arguments, state={})
        if denied:
            return Result(call.tool_call_id, "; ".join(denied), "denied")
        if asked.tool.requires_approval and (fault := _misfit(asked)):
            return _sent_back(call, fault)
        return asked

    def _delegation(self, call: ToolCallPart, arguments: Mapping[str, JsonValue]) -> Delegation | Result:
        specialist, subtask = arguments.get("specialist"), arguments.get("subtask")
        if not isinstance(specialist, str) or not isinstance(subtask, str) or not subtask.strip():
            return _sent_back(call, f"'{DELEGATE}' takes 'specialist' and 'subtask', both texts.")
        if specialist not in self.specialists:
            known = ", ".join(repr(name) for name in self.specialists)
            return _sent_back(call, f"There is no specialist {cut(specialist)!r}. The specialists are: {known}.")
        return Delegation(call_id=call.tool_call_id, specialist=specialist, subtask=subtask)

    def _known(self) -> str:
        names = [*self._offered, *([DELEGATE] if self.specialists else [])]
        return f"The tools are: {', '.join(map(repr, names))}." if names else "No tool can be called."

    async def call(self, call_id: str, asked: Asked, context: ToolContext, *, note: str = "") -> Result:
        """Make a call; what it brought. A `note` goes before a result."""
        try:
            value = await asked.tool.call(asked.arguments, context, self._timeout_seconds)
        except ParametersRejected as error:
            return Result(call_id, str(error), "retried")
        except ToolFailed as error:
            return Result(call_id, str(error), "failed")
        return Result(call_id, f"{note}{shortened(value)}")


def shortened(value: JsonValue) -> str:
    """A tool's result as the model reads it: a text as it is, else its JSON; a long one cut, saying so."""
    text = value if isinstance(value, str) else plain_json(value)
    if len(text) <= RESULT_CHARACTERS:
        return text
    left_out = len(text) - RESULT_CHARACTERS
    return (
        f"{text[:RESULT_CHARACTERS]}\n\n[{left_out:,} of {len(text):,} characters are left out. Ask for a part of it, "
        "or for something narrower.]"
    )


def decided(call: ToolCallPart, asked: Asked, answer: Any) -> tuple[Asked, str] | Result:
    """What a person's answer makes of a call: the call to be made, with a note for the model, or its end.

    Raises `StepFailed` where the answer is none.
    """
    try:
        decision = ToolDecision.model_validate(answer)
    except ValueError:
        raise StepFailed(
            f"the answer to the call {call.tool_call_id!r} of tool {call.tool_name!r} is {cut(repr(answer))}; it takes "
            "a decision: approve, deny or edit"
        ) from None
    if decision.decision == "deny":
        reason = f": {decision.message}" if decision.message else "."
        return Result(call.tool_call_id, f"A person denied this call{reason}", "denied")
    if decision.decision == "edit":
        note = f"A person changed the arguments to {plain_json(decision.arguments)}.\n"
        return Asked(asked.tool, decision.arguments), note
    return asked, ""


def _sent_back(call: ToolCallPart, text: str) -> Result:
    return Result(call.tool_call_id, text, "retried")


def _misfit(asked: Asked) -> str | None:
    """Why arguments do not fit the tool's schema: a person is asked only about a call that can be made."""
    try:
        validator = Draft202012Validator(asked.tool.parameters, registry=EMPTY_REGISTRY)
        fault = best_match(validator.iter_errors(asked.arguments))
    except Exception:  # noqa: BLE001 - a schema of somebody else's that is none may fail in any way
        return None  # its own server judges
    if fault is None:
        return None
    return f"The arguments do not fit, at {fault.json_path}: {cut(fault.message, QUOTED_CHARACTERS)}"


async def _offered(entry: ModelAgent, resources: Resources) -> dict[str, OfferedTool]:
    """The tools that an agent names, each name once."""
    offered: dict[str, OfferedTool] = {}
    whence: dict[str, str] = {}
    for name in entry.tools:
        for tool in await _named(name, entry, resources):
            origin = "" if resources.registry.tools.get(name) else name.partition(".")[0]
            if whence.setdefault(tool.name, origin) != origin:
                raise StepFailed(
                    f"agent {entry.name!r} is offered two tools named {tool.name!r}. Leave one of them out"
                )
            offered[tool.name] = tool
    return offered


async def _named(name: str, entry: ModelAgent, resources: Resources) -> list[OfferedTool]:
    """What one name in an agent's `tools` stands for."""
    registry = resources.registry
    if (tool := registry.tools.get(name)) is not None:
        return [_own(tool, resources.threads)]
    source_name, _, tool_name = name.partition(".")
    source = registry.sources.get(source_name)
    if source is None:
        raise StepFailed(f"agent {entry.name!r} names the tool {cut(name)!r}, which this worker does not have")
    served = list(await source.tools())
    if not tool_name:
        return served
    found = [tool for tool in served if tool.name == tool_name]
    if not found:
        names = ", ".join(repr(tool.name) for tool in served)
        raise StepFailed(f"agent {entry.name!r} names the tool {cut(name)!r}; {source_name!r} serves {names or 'none'}")
    return found


def _own(tool: Tool, threads: Threads) -> OfferedTool:
    """A tool of the worker's toolbox, as a model is offered it."""

    async def call(arguments: dict[str, JsonValue], context: ToolContext, timeout_seconds: float | None) -> JsonValue:
        # In a thread: a large argument takes longer than the event loop may be held.
        checked = await asyncio.to_thread(tool.arguments, arguments)
        limit = tool.timeout_seconds or timeout_seconds
        return await call_tool(tool, checked, context, threads=threads, timeout_seconds=limit)

    return OfferedTool(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        call=call,
        requires_approval=tool.requires_approval,
    )


def _delegate(specialists: Iterable[Specialist]) -> ToolDefinition:
    """The tool that hands a subtask to a specialist."""
    listed = "\n".join(
        f"- {one.name}: {one.description}" if one.description else f"- {one.name}" for one in specialists
    )
    return ToolDefinition(
        name=DELEGATE,
        description=f"Hand a subtask to a specialist, who answers it. The specialists:\n{listed}",
        parameters_json_schema={
            "type": "object",
            "properties": {
                "specialist": {"type": "string", "description": "The specialist's name."},
                "subtask": {"type": "string", "description": "All that the specialist needs to know."},
            },
            "required": ["specialist", "subtask"],
            "additionalProperties": False,
        },
    )


def _description(registry: Registry, name: str) -> str:
    entry = registry.get(name)
    return entry.description if entry else ""


def _first_line(text: str) -> str:
    return cut(text.strip().partition("\n")[0])
