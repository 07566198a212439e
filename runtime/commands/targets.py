"""What `perdure run` is asked to start: a file, a workflow type or a class, with its input.

Law: a mistake in the input is told before anything is started. Stage graphs are judged as `perdure verify` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.commands.graphs import STDIN, is_accepted, issue_line
from runtime.commands.inputs import Document, kind_of, read_document
from runtime.commands.options import Fault
from runtime.plugin import load_workflows, workflow_name
from runtime.texts import counted
from workflows import GraphDefinition, parse_phases
from workflows.errors import InputRejected
from workflows.graph.chaining import Chained
from workflows.graph.keys import GOAL
from workflows.graph.reading import SUFFIXES
from workflows.graph.step_checks import Served
from workflows.graph.verdict import Verdict
from workflows.graph.verify import examine
from workflows.graph_workflows import ChainInput
from workflows.parsing import parse
from workflows.wire import CHAIN_WORKFLOW, STAGE_GRAPH_WORKFLOW, STEPS_WORKFLOW, fit

INPUT_TAKERS = {
    STEPS_WORKFLOW: "a list of phases",
    STAGE_GRAPH_WORKFLOW: "a stage graph",
    CHAIN_WORKFLOW: "an object with `graphs`",
}
"""What perdure's own workflow types take."""


@dataclass(frozen=True)
class Target:
    """What is to be started."""

    workflow_type: str
    arguments: list[Any]
    summary: str
    module: str | None = None
    """`module:Class` of a workflow of the user's own."""
    notices: tuple[str, ...] = ()
    """What is worth knowing about it and does not keep it from starting."""


@dataclass(frozen=True)
class Asked:
    """How stage graphs are to be judged and started."""

    state: dict[str, Any] | None = None
    """Laid over each graph's `initial_state`."""
    is_lenient: bool = False
    """Doubts do not keep a graph from starting."""
    served: Callable[[], Served] = Served
    """What the workers have; asked only where there is a graph."""


@dataclass
class _Judged:
    """Several graphs, judged one after the other: what one leaves, the next may refer to."""

    asked: Asked
    definitions: list[GraphDefinition] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    chained: Chained = field(init=False)

    def __post_init__(self) -> None:
        self.chained = Chained((self.asked.state or {}).keys())

    def judge(self, source: Document, served: Served) -> None:
        """Judge the next graph."""
        definition, verdict = examine(
            source.value if source.text is None else source.text,
            file=None if source.text is None else source.name,
            given=self.chained.given_to(source.value),
            served=served,
        )
        self.lines += [issue_line(source.name, issue) for issue in verdict.issues]
        if definition is None or not is_accepted(verdict, lenient=self.asked.is_lenient):
            self.refusals.append(_refusal(source.name, verdict))
        if definition is not None:
            self.definitions.append(definition)
            self.chained.add(definition)


def is_document(name: str) -> bool:
    """Whether a target is a file by its name, and not a workflow type."""
    return name == STDIN or Path(name).suffix.lower() in SUFFIXES


def resolve(
    target: str, arguments: Sequence[Any] = (), more_files: Sequence[str] = (), asked: Asked | None = None
) -> Target:
    """What a target stands for. The input of perdure's own workflows is checked here, before anything starts."""
    asked = Asked() if asked is None else asked
    if is_document(target):
        if arguments:
            raise Fault(f"{target!r} is the run's input itself. Leave INPUT, --input and --input-file out.")
        return _of_files([read_document(name) for name in (target, *more_files)], asked)
    if target in INPUT_TAKERS:
        if not arguments:
            takes = INPUT_TAKERS[target]
            raise Fault(f"{target} takes {takes}. Give it as INPUT, with --input-file, or name a file of it.")
        return _of_own(Document(target, arguments[0]), asked)
    if asked.state is not None:
        raise Fault(f"--state and --state-file are for stage graphs. Give {target!r} its input as INPUT.")
    if ":" in target:
        (found,) = load_workflows([target])
        name = workflow_name(found)
        if name is None:
            raise Fault(f"{target!r} is a dynamic workflow. Give the workflow type to start, and --workflows {target}.")
        return Target(name, list(arguments), f"{name} by perdure run", target)
    if Path(target).is_file():
        raise Fault(
            f"{target!r} is a file, and perdure run reads .json, .yaml and .yml files. Rename it, or name a workflow "
            "type."
        )
    return Target(target, list(arguments), f"{target} by perdure run")


def _of_files(sources: Sequence[Document], asked: Asked) -> Target:
    """Phases or a graph in one file, or several graphs to be run one after the other."""
    for source in sources:
        if isinstance(source.value, list) and len(sources) > 1:
            raise Fault(f"{source.name!r} holds phases, and several files are run as a chain of stage graphs.")
        if not isinstance(source.value, (dict, list)):
            raise Fault(
                f"{source.name!r} holds {kind_of(source.value)}. perdure run takes a stage graph, which is an object "
                "with `stages`, or a list of phases."
            )
    if len(sources) > 1:
        return _chain(sources, asked)
    (source,) = sources
    return _steps(source, asked) if isinstance(source.value, list) else _graph(source, asked)


def _of_own(source: Document, asked: Asked) -> Target:
    """The input of one of perdure's own workflow types."""
    if source.name == STEPS_WORKFLOW:
        return _steps(source, asked)
    if source.name == STAGE_GRAPH_WORKFLOW:
        return _graph(source, asked)
    chain = parse(ChainInput, source.value, CHAIN_WORKFLOW, InputRejected)
    if not chain.graphs:
        raise Fault("Chain: 'graphs' is empty. A chain has at least one graph.")
    sources = [Document(f"graph {number}", graph) for number, graph in enumerate(chain.graphs)]
    return _chain(sources, replace(asked, state={**chain.initial_state, **(asked.state or {})}))


def _steps(source: Document, asked: Asked) -> Target:
    if asked.state is not None:
        raise Fault(f"--state and --state-file are for stage graphs, and {source.name!r} holds phases.")
    named = ", ".join(phase.name for phase in parse_phases(source.value))
    return Target(STEPS_WORKFLOW, [source.value], f"{source.name}: {named}" if named else f"{source.name}: no phases")


def _graph(source: Document, asked: Asked) -> Target:
    judged = _judged([source], asked)
    definition = source.value
    if asked.state:
        definition = {**definition, "initial_state": {**definition.get("initial_state", {}), **asked.state}}
    fit(definition, owner=source.name, field="the definition")
    summary = f"{source.name}: {judged.definitions[0].name}"
    return Target(STAGE_GRAPH_WORKFLOW, [definition], summary, notices=tuple(judged.lines))


def _chain(sources: Sequence[Document], asked: Asked) -> Target:
    judged = _judged(sources, asked)
    chain = {"graphs": [source.value for source in sources], "initial_state": asked.state or {}}
    fit(chain, owner=", ".join(source.name for source in sources), field="the chain")
    summary = " -> ".join(definition.name for definition in judged.definitions)
    return Target(CHAIN_WORKFLOW, [chain], summary, notices=tuple(judged.lines))


def _judged(sources: Sequence[Document], asked: Asked) -> _Judged:
    """The graphs, all of them accepted; what is wrong with any is told at once."""
    if asked.state is not None and GOAL in asked.state:
        raise Fault(f"The state holds the key {GOAL!r}, and only a definition sets it: as `goal`, beside its stages.")
    judged, served = _Judged(asked), asked.served()
    for source in sources:
        judged.judge(source, served)
    if judged.refusals:
        raise Fault("\n".join([*judged.lines, *judged.refusals]))
    return judged


def _refusal(name: str, verdict: Verdict) -> str:
    errors, doubts = (len(verdict.with_severity(severity)) for severity in ("error", "doubt"))
    found = " and ".join(counted(count, noun) for count, noun in ((errors, "error"), (doubts, "doubt")) if count)
    remedy = "" if errors else " --lenient starts it all the same."
    return f"{name}: {found}; nothing was started.{remedy}"
