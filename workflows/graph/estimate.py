"""How many agent steps a graph takes if nothing fails: at least, and at most.

Law: pure, and linear but for the cheapest way through a graph (Dijkstra 1959). `None` for most: nothing bounds it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import assert_never

from pydantic import JsonValue

from workflows.graph.definition import (
    ApprovalStep,
    DedupStep,
    DeliverStep,
    ForEachStep,
    GraphDefinition,
    LoopUntilStep,
    PatternKind,
    PatternStep,
    ProposalStep,
    Step,
    SubWorkflowStep,
)
from workflows.graph.reach import Reach, reach_of
from workflows.graph.verdict import Estimate, RunEstimate
from workflows.patterns.configs import DEFAULT_DEBATE_ROUNDS, DEFAULT_SUPERVISION_ROUNDS

Config = Mapping[str, JsonValue]

NOTHING = Estimate(least=0, most=0)


def _exactly(count: int) -> Estimate:
    return Estimate(least=max(0, count), most=max(0, count))


def _number(config: Config, name: str, default: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _synthesis(config: Config) -> int:
    return 1 if config.get("synthesizer_index") is not None else 0


def _debate(agents: int, config: Config) -> Estimate:
    return _exactly(agents * _number(config, "rounds", DEFAULT_DEBATE_ROUNDS) + _synthesis(config))


def _supervisor(agents: int, config: Config) -> Estimate:
    return Estimate(least=agents, most=agents * max(1, _number(config, "max_rounds", DEFAULT_SUPERVISION_ROUNDS)))


def _map_reduce(_: int, config: Config) -> Estimate:
    items = config.get("items")
    return _exactly(len(items) + 1) if isinstance(items, list) else Estimate(least=1, most=None)


PATTERNS: dict[PatternKind, Callable[[int, Config], Estimate]] = {
    "swarm_parallel": lambda agents, config: _exactly(agents + _synthesis(config)),
    "swarm_sequential": lambda agents, _: _exactly(agents),
    "swarm_debate": _debate,
    "pipeline": lambda agents, _: _exactly(agents),
    "supervisor": _supervisor,
    "delegator": lambda _agents, _config: Estimate(least=1, most=None),  # the main agent decides
    "map_reduce": _map_reduce,
    "vote": lambda agents, config: _exactly(agents + _synthesis(config)),
    "fleet": lambda agents, _: _exactly(agents),
    "adversarial_review": lambda _agents, _config: Estimate(least=0, most=1),  # nothing to review: no step
    "tournament": lambda agents, _: _exactly(2 * agents - 3),  # n competitors, n - 1 matches, one agent judges
}


def step_estimate(step: Step) -> Estimate:
    """The agent steps of one execution of a step."""
    match step:
        case PatternStep():
            return PATTERNS[step.pattern](len(step.agents), step.config)
        case LoopUntilStep():
            return _times(step_estimate(step.body), 1 if step.until else step.max_iterations, step.max_iterations)
        case ForEachStep():
            return _times(step_estimate(step.body), 0, None)
        case SubWorkflowStep():
            found = run_estimate(step.workflow, reach_of(step.workflow))
            return Estimate(least=found.least, most=found.most)
        case ProposalStep() | ApprovalStep() | DedupStep() | DeliverStep():
            return NOTHING
        case _:
            assert_never(step)


def _times(body: Estimate, least: int, most: int | None) -> Estimate:
    if body.most == 0:
        return NOTHING
    bounded = None if body.most is None or most is None else body.most * max(0, most)
    return Estimate(least=body.least * max(0, least), most=bounded)


def run_estimate(graph: GraphDefinition, reach: Reach) -> RunEstimate:
    """The agent steps of a run that completes."""
    stages = {stage.id: step_estimate(stage.step) for stage in graph.stages}
    return RunEstimate(least=_least(graph.start, stages, reach), most=_most(graph, stages, reach), stages=stages)


def _least(start: str, stages: Mapping[str, Estimate], reach: Reach) -> int:
    """Along the cheapest way to a stage where the run can end; 0 where there is none."""
    if start not in stages:
        return 0
    waiting = [(stages[start].least, start)]
    done: set[str] = set()
    while waiting:
        spent, stage = heapq.heappop(waiting)
        if stage in reach.ends:
            return spent
        if stage in done:
            continue
        done.add(stage)
        for target in reach.following[stage]:
            if target not in done:
                heapq.heappush(waiting, (spent + stages[target].least, target))
    return 0


def _most(graph: GraphDefinition, stages: Mapping[str, Estimate], reach: Reach) -> int | None:
    """Along the dearest way; with a cycle, as often as the loop guard allows."""
    bounds = {stage: stages[stage].most for stage in reach.reachable}
    if any(bound is None for bound in bounds.values()):
        return None
    known = {stage: bound for stage, bound in bounds.items() if bound is not None}
    if reach.cycles:
        return graph.max_iterations * max(known.values(), default=0)
    most: dict[str, int] = {}
    for (stage,) in reach.components:  # the last stages come first
        most[stage] = known[stage] + max((most[target] for target in reach.following[stage]), default=0)
    return most.get(graph.start, 0)
