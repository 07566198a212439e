"""One agent works on each item, another brings the results together.

Source: car-multi, MapReduce. Items are any JSON; a step is made when its turn comes, so thousands of them cost the
history their own prompts and one reduce prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue
from temporalio.workflow import patched

from workflows.graph.pace import Pace, in_parts
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.history import refuses_stages
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, Question, agent_output, ask_one, members, require, require_any
from workflows.patterns.configs import DEFAULT_MAP_CONCURRENCY, MapReduceConfig, checked
from workflows.steps import StepOutcome
from workflows.supply import INLINE_STEPS
from workflows.window import sliding_window
from workflows.wire import MANY_OUTPUTS_PATCH

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "map_reduce"

OUTPUTS_AT_ONCE = 10_000
# Made of outcomes in one activation, in about a tenth of a second.


async def map_reduce(
    workflow: AgentWorkflow,
    agents: Agents,
    task: str,
    items: Sequence[JsonValue] = (),
    max_concurrent: int = DEFAULT_MAP_CONCURRENCY,
) -> PatternOutput:
    """The reducer's answer, `agents[1]`, to the succeeded results of the mapper, `agents[0]`, in item order.

    Item `i` is the output `<mapper>_<i>`. At most `max_concurrent` items are under way, within the run's own window.
    Raises `PatternFailed` where no item succeeded, or the reducer failed: its prompt may be too large for a history.
    """
    config = checked(KIND, MapReduceConfig, {"items": _listed(items), "max_concurrent": max_concurrent})
    mapper, reducer, *_ = members(KIND, agents)

    def mapping(position: int) -> Question:
        return mapper.question(prompts.mapping(task, config.items[position]), name=f"{mapper.name}_{position}")

    pace = Pace()

    async def map_item(position: int) -> AgentOutput:
        await pace.keep(0)  # items whose steps are denied wait for nothing
        if full := refuses_stages():
            return AgentOutput(name=f"{mapper.name}_{position}", answer="", error=full)
        return (await ask_one(workflow, mapping(position))).output

    positions = range(len(config.items))
    width = min(config.max_concurrent, workflow.perdure.options.window)
    if len(positions) > INLINE_STEPS:  # more than one history should hold: children carry them
        asked = (mapping(position).spec for position in positions)
        outcomes = await workflow.parallel(asked, at_most=width)
        at_once = OUTPUTS_AT_ONCE if len(outcomes) > OUTPUTS_AT_ONCE and patched(MANY_OUTPUTS_PATCH) else len(outcomes)
        outputs = await in_parts(_outputs(mapper.name, outcomes, at_once))
    else:
        outputs = await sliding_window(positions, width, map_item)
    require_any(outputs)
    reduced = (await ask_one(workflow, reducer.question(prompts.reduction(task, outputs)))).output
    outputs.append(reduced)
    require(KIND, "reducer", reduced, outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=reduced.answer)


def _outputs(name: str, outcomes: Sequence[StepOutcome], at_once: int) -> Generator[None, None, list[AgentOutput]]:
    """The mapper's answers, so many at once."""
    outputs: list[AgentOutput] = []
    for at, outcome in enumerate(outcomes):
        if at and at % at_once == 0:
            yield
        outputs.append(agent_output(f"{name}_{at}", outcome))
    return outputs


def _listed(items: Sequence[JsonValue]) -> object:
    """A tuple as a list; anything else is for the config's own check."""
    return list(items) if isinstance(items, tuple) else items
