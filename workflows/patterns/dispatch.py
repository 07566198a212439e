"""From a pattern step of a graph to the pattern that it names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from workflows.graph.definition import PatternKind, PatternStep
from workflows.graph.results import PatternOutput, ReviewOutput
from workflows.patterns.adversarial_review import adversarial_review
from workflows.patterns.configs import CONFIG_MODELS, AdversarialReviewConfig, checked
from workflows.patterns.delegator import delegator
from workflows.patterns.fleet import fleet
from workflows.patterns.map_reduce import map_reduce
from workflows.patterns.pipeline import pipeline
from workflows.patterns.supervisor import supervisor
from workflows.patterns.swarm_debate import swarm_debate
from workflows.patterns.swarm_parallel import swarm_parallel
from workflows.patterns.swarm_sequential import swarm_sequential
from workflows.patterns.tournament import tournament
from workflows.patterns.vote import vote

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

Pattern = Callable[..., Coroutine[Any, Any, PatternOutput | ReviewOutput]]

PATTERNS: dict[PatternKind, Pattern] = {
    "swarm_parallel": swarm_parallel,
    "swarm_sequential": swarm_sequential,
    "swarm_debate": swarm_debate,
    "pipeline": pipeline,
    "supervisor": supervisor,
    "delegator": delegator,
    "map_reduce": map_reduce,
    "vote": vote,
    "fleet": fleet,
    "adversarial_review": adversarial_review,
    "tournament": tournament,
}
"""Each takes (workflow, agents, task) and the fields of its config model by name."""


async def run_pattern(
    workflow: AgentWorkflow, step: PatternStep, state: Mapping[str, JsonValue]
) -> PatternOutput | ReviewOutput:
    """Run the pattern that a step names. Only a review reads the state, at its `review_key`.

    Keys of `config` that the pattern does not know are ignored, and null is as good as absent. Raises
    `PatternFailed`, which carries what the agents brought until then.
    """
    model = CONFIG_MODELS[step.pattern]
    settings: dict[str, Any] = {
        key: value for key, value in step.config.items() if key in model.model_fields and value is not None
    }
    if step.pattern == "adversarial_review":
        # In a graph the key has no default: a review of the wrong work is worse than none.
        settings["work"] = state.get(checked(step.pattern, AdversarialReviewConfig, settings).review_key)
    return await PATTERNS[step.pattern](workflow, step.agents, step.task, **settings)
