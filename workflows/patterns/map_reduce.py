"""One agent works on each item, another brings the results together.

Source: car-multi, MapReduce. Items are any JSON; a step is made when its turn comes, so thousands of them cost the
history their own prompts and one reduce prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, ask_one, members, require, require_any
from workflows.patterns.configs import DEFAULT_MAP_CONCURRENCY, MapReduceConfig, checked
from workflows.window import sliding_window

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "map_reduce"


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

    async def map_item(position: int) -> AgentOutput:
        prompt = prompts.mapping(task, config.items[position])
        return (await ask_one(workflow, mapper.question(prompt, name=f"{mapper.name}_{position}"))).output

    width = min(config.max_concurrent, workflow.perdure.options.window)
    outputs = await sliding_window(range(len(config.items)), width, map_item)
    require_any(outputs)
    reduced = (await ask_one(workflow, reducer.question(prompts.reduction(task, outputs)))).output
    outputs.append(reduced)
    require(KIND, "reducer", reduced, outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=reduced.answer)


def _listed(items: Sequence[JsonValue]) -> object:
    """A tuple as a list; anything else is for the config's own check."""
    return list(items) if isinstance(items, tuple) else items
