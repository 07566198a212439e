"""What the graphs of a chain leave to those after them, when a chain is judged before any of them has run.

Law: errs on the side of yes, as `workflows.graph.keys` does, so a key that is reported as never there is never there.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from workflows.graph.definition import GraphDefinition
from workflows.graph.keys import Keys, keys_of
from workflows.graph.templates import references, texts


@dataclass
class Chained:
    """The graphs of a chain that were judged so far."""

    given: Collection[str] = ()
    """Keys that the start brings to every graph."""
    _left: list[Keys] = field(default_factory=list)

    def given_to(self, value: Any) -> set[str]:
        """The keys that the next graph may find: those of the start, and what it mentions and one before it leaves.

        The graph is a plain value here, for what it mentions stands in its texts.
        """
        return {*self.given, *(key for key in self._mentioned(value) if any(key in keys for keys in self._left))}

    def add(self, graph: GraphDefinition) -> None:
        """The graph has been judged; what it leaves, the next may refer to."""
        self._left.append(keys_of(graph))

    def _mentioned(self, value: Any) -> Iterable[str]:
        return {*references(value), *texts(value)} if self._left else ()
