"""The shape of a graph: what can be reached, in which waves, and which circles it can go in for ever.

Law: iterative and linear in stages and edges, so that ten thousand stages are no work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workflows.graph.definition import Edge, GraphDefinition

Following = Mapping[str, Sequence[str]]
"""The stages that may come next, by stage."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What can happen between the stages of a graph whose edges all lead somewhere."""

    following: Following
    """Without the edges that stand behind one that always holds: they are never taken."""
    waves: tuple[tuple[str, ...], ...]
    components: tuple[tuple[str, ...], ...]
    """Stages that reach each other, the last ones first; a stage on its own is one too."""
    ends: frozenset[str]
    """Stages after which the run can be completed: none of their edges always holds."""

    @property
    def reachable(self) -> tuple[str, ...]:
        """Stages that the start leads to, in the order of their waves."""
        return tuple(stage for wave in self.waves for stage in wave)

    @property
    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """Stages that can come again."""
        return tuple(found for found in self.components if len(found) > 1 or found[0] in self.following[found[0]])

    def has_way_out(self, cycle: Sequence[str]) -> bool:
        """Whether a run inside the cycle can get out of it, or end there."""
        inside = set(cycle)
        return any(stage in self.ends or not inside.issuperset(self.following[stage]) for stage in cycle)


def reach_of(graph: GraphDefinition) -> Reach:
    """The shape of a graph; edges from or to unknown stages are left out."""
    stages = dict.fromkeys(stage.id for stage in graph.stages)
    following: dict[str, list[str]] = {stage: [] for stage in stages}
    always: set[str] = set()
    for edge in graph.edges:
        if edge.source not in stages or edge.target not in stages or edge.source in always:
            continue
        following[edge.source].append(edge.target)
        if not edge.conditions:
            always.add(edge.source)
    waves = _waves(graph.start, following)
    reachable = [stage for wave in waves for stage in wave]
    return Reach(following, waves, _components(reachable, following), frozenset(stages.keys() - always))


def dead_edges(edges: Iterable[Edge]) -> list[int]:
    """The places of edges that stand behind one of the same stage that always holds."""
    always: set[str] = set()
    dead = []
    for place, edge in enumerate(edges):
        if edge.source in always:
            dead.append(place)
        if not edge.conditions:
            always.add(edge.source)
    return dead


def _waves(start: str, following: Following) -> tuple[tuple[str, ...], ...]:
    seen = {start} if start in following else set()
    wave = list(seen)
    waves: list[tuple[str, ...]] = []
    while wave:
        waves.append(tuple(wave))
        coming = dict.fromkeys(target for stage in wave for target in following[stage] if target not in seen)
        seen.update(coming)
        wave = list(coming)
    return tuple(waves)


def _components(stages: Sequence[str], following: Following) -> tuple[tuple[str, ...], ...]:
    """Strongly connected components (Tarjan 1972, with a stack of its own)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_stages: dict[str, None] = {}
    found: list[tuple[str, ...]] = []
    for root in stages:
        walk = [] if root in order else [(root, 0)]
        while walk:
            stage, place = walk.pop()
            if place == 0:
                order[stage] = low[stage] = len(order)
                open_stages[stage] = None
            else:
                low[stage] = min(low[stage], low[following[stage][place - 1]])
            place = _look_around(stage, place, following, order, low, open_stages)
            if place < len(following[stage]):
                walk += [(stage, place + 1), (following[stage][place], 0)]
            elif low[stage] == order[stage]:
                found.append(_closed(stage, open_stages))
    return tuple(found)


def _look_around(
    stage: str,
    place: int,
    following: Following,
    order: Mapping[str, int],
    low: dict[str, int],
    open_stages: Mapping[str, None],
) -> int:
    """Take in the neighbours that were met before; the place of the first that was not."""
    for at in range(place, len(following[stage])):
        target = following[stage][at]
        if target not in order:
            return at
        if target in open_stages:
            low[stage] = min(low[stage], order[target])
    return len(following[stage])


def _closed(stage: str, open_stages: dict[str, None]) -> tuple[str, ...]:
    members: list[str] = []
    while not members or members[-1] != stage:
        members.append(open_stages.popitem()[0])
    return tuple(reversed(members))
