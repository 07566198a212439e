"""What can be wrong with one stage: its step, what is nested in it, and its compensation.

What a pattern needs and takes is its own to say: `workflows.patterns.configs`.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, assert_never

from pydantic import JsonValue, ValidationError

from workflows.errors import cut
from workflows.graph.conditions import OPERATORS
from workflows.graph.definition import (
    ActionProposal,
    ApprovalStep,
    Condition,
    DedupStep,
    DeliverStep,
    ForEachStep,
    LoopUntilStep,
    PatternKind,
    PatternStep,
    ProposalCompensation,
    ProposalStep,
    Stage,
    Step,
    SubWorkflowStep,
)
from workflows.graph.fields import listed
from workflows.graph.keys import ITEM_KEYS, PAYLOAD_KEYS, Keys
from workflows.graph.locating import Path
from workflows.graph.proposal_checks import proposal_findings
from workflows.graph.templates import references
from workflows.graph.verdict import Finding, Severity
from workflows.parsing import nearest
from workflows.patterns.configs import CONFIG_MODELS, LEAST_AGENTS, PatternConfig

SHOWN_NAMES = 8
# So many names are listed in a message; of more, only the nearest is told.
MOST_COMPARED = 500
# Comparing a name with more would take longer than all the rest of verifying.
MOST_SUGGESTIONS = 20
# Suggestions in one verdict, for the same reason.


@dataclass(frozen=True, slots=True)
class Served:
    """What the workers have, as far as it is known; None where it is not."""

    agents: Collection[str] | None = None
    tools: Collection[str] | None = None
    has_model: bool = False
    """Agents that are not among `agents` run on a model of the registry's."""


@dataclass(slots=True)
class Findings:
    """What has been found so far; suggests names while that costs little."""

    served: Served
    found: list[Finding] = field(default_factory=list)
    suggestions: int = 0

    def add(
        self, severity: Severity, message: str, path: Path, stage_id: str | None = None, *, is_key: bool = False
    ) -> None:
        """Note one thing that is wrong."""
        self.found.append(Finding(severity, message, path, stage_id, is_key))

    def known(self, what: str, name: str, names: Collection[str]) -> str:
        """A sentence about the names that there are; starts with a space, and is empty where it would cost too much."""
        if len(names) <= SHOWN_NAMES:
            return f" The {what} are {listed(list(names))}." if names else f" There are no {what}."
        return self.nearest(name, names)

    def nearest(self, name: str, names: Collection[str]) -> str:
        """A question about the name that was probably meant; as above."""
        if len(names) > MOST_COMPARED or self.suggestions >= MOST_SUGGESTIONS:
            return ""
        self.suggestions += 1
        close = difflib.get_close_matches(name, sorted(names), n=1)
        return f" Did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, slots=True)
class Around:
    """Where a step stands."""

    stage: Stage
    stage_id: str
    """With the ids of the stages around it, where it is nested."""
    keys: Keys
    has_templates: bool
    is_repeated: bool
    """Inside `loop_until` or `for_each`."""
    local: tuple[str, ...] = ()
    """Keys that only exist here."""

    def inside(self, *local: str, is_repeated: bool = False) -> Around:
        """The surroundings of what is nested in this."""
        is_repeated = is_repeated or self.is_repeated
        return Around(self.stage, self.stage_id, self.keys, self.has_templates, is_repeated, (*self.local, *local))

    def __contains__(self, key: str) -> bool:
        return key in self.local or key in self.keys


@dataclass(frozen=True, slots=True)
class Nested:
    """A graph found in a step, to be checked in its turn."""

    step: SubWorkflowStep
    path: Path
    around: Around


def check_stage(findings: Findings, around: Around, path: Path) -> Iterator[Nested]:
    """Check a stage's step and its compensation's proposal; gives the graphs nested in it."""
    yield from _check_step(findings, around, around.stage.step, (*path, "step"))
    if isinstance(around.stage.compensation, ProposalCompensation):
        proposal = around.stage.compensation.proposal
        _check_proposal(findings, around, proposal, (*path, "compensation", "proposal"))


def _check_step(findings: Findings, around: Around, step: Step, path: Path) -> Iterator[Nested]:
    match step:
        case PatternStep():
            _check_pattern(findings, around, step, path)
        case ProposalStep():
            _check_proposal(findings, around, step.proposal, (*path, "proposal"))
        case SubWorkflowStep():
            for key, value in step.workflow.initial_state.items():
                check_references(findings, around, value, (*path, "workflow", "initial_state", key))
            yield Nested(step, (*path, "workflow"), around)
        case ApprovalStep():
            _check_approval(findings, around, step, path)
        case LoopUntilStep():
            _check_loop(findings, around, step, path)
            yield from _check_step(findings, around.inside(is_repeated=True), step.body, (*path, "body"))
        case ForEachStep():
            _check_source(findings, around, step.items_from, path)
            inside = around.inside(*ITEM_KEYS, is_repeated=True)
            yield from _check_step(findings, inside, step.body, (*path, "body"))
        case DedupStep():
            _check_source(findings, around, step.items_from, path)
            _check_filled(findings, around, path, into=step.into, store=step.store)
        case DeliverStep():
            _check_deliver(findings, around, step, path)
        case _:
            assert_never(step)


def _check_pattern(findings: Findings, around: Around, step: PatternStep, path: Path) -> None:
    subject, count = f"stage {around.stage_id!r}", len(step.agents)
    least = LEAST_AGENTS[step.pattern]
    if count < least.count:
        needed = " and ".join(f"a {role}" for role in least.roles.split(" + ")) if least.roles else "an agent"
        has = f"{count} agent{'' if count == 1 else 's'}"
        message = f"{subject}: pattern {step.pattern!r} needs {needed}; it has {has}."
        findings.add("doubt", message, (*path, "agents"), around.stage_id)
    check_references(findings, around, step.task, (*path, "task"))
    _check_config(findings, around, step, (*path, "config"))
    for number, agent in enumerate(step.agents):
        at = (*path, "agents", number)
        check_references(findings, around, agent.system_prompt, (*at, "system_prompt"))
        _check_served(findings, around, agent.name, agent.metadata, agent.tools, at)
        _check_schema(findings, around, agent.name, agent.metadata.get("output_schema"), at)
    for name, times in Counter(agent.name for agent in step.agents).items() if count > 1 else ():
        if times > 1:
            message = f"{subject}: {times} agents are named {cut(name)!r}, so their answers cannot be told apart."
            findings.add("warning", message, (*path, "agents"), around.stage_id)


def _check_config(findings: Findings, around: Around, step: PatternStep, path: Path) -> None:
    known = CONFIG_MODELS[step.pattern].model_fields
    for name, value in step.config.items():
        if name not in known:
            told = nearest(name, known) or f" Pattern {step.pattern!r} takes none."
            message = f"stage {around.stage_id!r}: config key {cut(name)!r} is not known and is ignored.{told}"
            findings.add("warning", message, (*path, name), around.stage_id, is_key=True)
        elif name.endswith("_index") and isinstance(value, int) and value >= len(step.agents):
            there = f"the agents have 0 to {len(step.agents) - 1}" if step.agents else "there is no agent"
            message = f"stage {around.stage_id!r}: config key {name!r} is {value}, and {there}."
            findings.add("doubt", message, (*path, name), around.stage_id)
        check_references(findings, around, value, (*path, name))
    faults = _config_faults(step, has_templates=around.has_templates) if step.config else _faults_of_none(step.pattern)
    for name, fault in faults.items():
        findings.add("doubt", f"stage {around.stage_id!r}: {fault}", (*path, name), around.stage_id)
    review_key = step.config.get("review_key")
    if step.pattern == "adversarial_review" and isinstance(review_key, str):
        check_key(findings, around, review_key, "review_key", (*path, "review_key"))


def _config_faults(step: PatternStep, *, has_templates: bool) -> dict[str, str]:
    """What a pattern would refuse, by key; what is only known while the run goes on is left to the pattern."""
    model = CONFIG_MODELS[step.pattern]
    try:
        model.model_validate(step.config)
    except ValidationError as error:
        keys = dict.fromkeys(str(mistake["loc"][0]) for mistake in error.errors(include_url=False))
        return {
            key: _config_fault(model, key, step.config) for key in keys if not (has_templates and _refers(step, key))
        }
    if step.pattern == "map_reduce" and not step.config.get("items"):
        return {"items": "config key 'items' holds nothing, so there is nothing to map."}
    return {}


@cache
def _faults_of_none(kind: PatternKind) -> dict[str, str]:
    """What a pattern would refuse where nothing is configured."""
    return _config_faults(PatternStep(pattern=kind, task=""), has_templates=False)


def _config_fault(model: type[PatternConfig], key: str, config: dict[str, JsonValue]) -> str:
    found = f"is {cut(json.dumps(config[key], ensure_ascii=False))}" if key in config else "is missing"
    return f"config key {key!r} {found}, and it takes {model.model_fields[key].description}."


def _refers(step: PatternStep, key: str) -> bool:
    return bool(references(step.config.get(key)))


def _check_served(
    findings: Findings, around: Around, name: str, metadata: dict[str, JsonValue], tools: Iterable[str], path: Path
) -> None:
    served, subject = findings.served, f"stage {around.stage_id!r}"
    has_model = served.has_model or "model" in metadata
    if served.agents is not None and name not in served.agents and not has_model:
        told = findings.known("agents", name, served.agents)
        message = (
            f"{subject}: agent {cut(name)!r} is not in the registry, and no model is set for it.{told} Write it into "
            f"agents.toml as [agents.{cut(name)}], or set 'model' in its metadata or 'default_model' in agents.toml."
        )
        findings.add("doubt", message, (*path, "name"), around.stage_id)
    for number, tool in enumerate(tools if served.tools is not None else ()):
        if served.tools is not None and tool not in served.tools:
            told = findings.known("tools", tool, served.tools)
            message = f"{subject}: tool {cut(tool)!r} of agent {cut(name)!r} is not in the registry.{told}"
            findings.add("doubt", message, (*path, "tools", number), around.stage_id)


def _check_schema(findings: Findings, around: Around, name: str, schema: JsonValue, path: Path) -> None:
    if schema is None:
        return
    fault = schema_fault(schema)
    if fault is not None:
        message = f"stage {around.stage_id!r}: output_schema of agent {cut(name)!r} is no JSON Schema: {fault}."
        findings.add("doubt", message, (*path, "metadata", "output_schema"), around.stage_id)


def schema_fault(schema: Any) -> str | None:
    """Why a value is no JSON Schema; None if it is one."""
    from jsonschema import Draft202012Validator, SchemaError  # only definitions that hold one pay for loading it

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return cut(error.message)
    return None


def _check_proposal(findings: Findings, around: Around, proposal: ActionProposal, path: Path) -> None:
    for finding in proposal_findings(proposal):
        if finding.severity != "warning":
            message = f"stage {around.stage_id!r}: {finding.message}"
            findings.add(finding.severity, message, (*path, *finding.path), around.stage_id)
    tools = findings.served.tools
    for place, action in enumerate(proposal.actions):
        at = (*path, "actions", place)
        for name, value in action.parameters.items():
            check_references(findings, around, value, (*at, "parameters", name))
        for number, condition in enumerate(action.preconditions):
            check_key(findings, around, condition.key, "a precondition", (*at, "preconditions", number, "key"))
        if tools is not None and action.type == "tool_call" and action.tool and action.tool not in tools:
            told = findings.known("tools", action.tool, tools)
            message = f"stage {around.stage_id!r}: action {action.id!r}: tool '{action.tool}' is not registered.{told}"
            findings.add("doubt", message, (*at, "tool"), around.stage_id)


def _check_approval(findings: Findings, around: Around, step: ApprovalStep, path: Path) -> None:
    subject = f"stage {around.stage_id!r}"
    if around.is_repeated:
        message = f"{subject}: an approval cannot stand inside 'loop_until' or 'for_each'. Give it a stage of its own."
        findings.add("error", message, path, around.stage_id)
    _check_filled(findings, around, path, output_key=step.output_key)
    check_references(findings, around, step.prompt, (*path, "prompt"))
    if step.on_timeout != "fail" and step.timeout_ms is None:
        message = f"{subject}: 'on_timeout' has no effect without 'timeout_ms'."
        findings.add("warning", message, (*path, "on_timeout"), around.stage_id, is_key=True)


def _check_loop(findings: Findings, around: Around, step: LoopUntilStep, path: Path) -> None:
    if step.max_iterations < 1:
        message = f"stage {around.stage_id!r}: 'max_iterations' is {step.max_iterations}; it takes at least 1."
        findings.add("error", message, (*path, "max_iterations"), around.stage_id)
    check_conditions(findings, around, step.until, f"stage {around.stage_id!r}", (*path, "until"))


def _check_deliver(findings: Findings, around: Around, step: DeliverStep, path: Path) -> None:
    if not step.sinks:
        message = f"stage {around.stage_id!r}: 'sinks' is empty, so nothing is delivered."
        findings.add("warning", message, (*path, "sinks"), around.stage_id)
    if step.payload_key is not None:
        check_key(findings, around, step.payload_key, "payload_key", (*path, "payload_key"))
    inside = around.inside(*PAYLOAD_KEYS) if step.payload_key is not None else around
    for number, sink in enumerate(step.sinks):
        _check_proposal(findings, inside, sink, (*path, "sinks", number))


def _check_source(findings: Findings, around: Around, items_from: str, path: Path) -> None:
    _check_filled(findings, around, path, items_from=items_from)
    if items_from:
        check_key(findings, around, items_from, "items_from", (*path, "items_from"))


def _check_filled(findings: Findings, around: Around, path: Path, **values: str) -> None:
    for name, value in values.items():
        if not value:
            message = f"stage {around.stage_id!r}: {name!r} is empty. Name a state key."
            findings.add("error", message, (*path, name), around.stage_id)


def check_conditions(
    findings: Findings, around: Around, conditions: Iterable[Condition], subject: str, path: Path
) -> None:
    """Operators that nobody knows, and keys that nothing can produce."""
    for number, condition in enumerate(conditions):
        if condition.operator not in OPERATORS:
            told = nearest(condition.operator, OPERATORS)
            message = (
                f"{subject}: operator {cut(condition.operator)!r} is not known, so its condition never holds.{told}"
            )
            findings.add("doubt", message, (*path, number, "operator"), around.stage_id)
        if condition.key not in around:
            message = f"{subject}: a condition reads {cut(condition.key)!r}, which nothing in this graph produces."
            findings.add("warning", message, (*path, number, "key"), around.stage_id)


def check_key(findings: Findings, around: Around, key: str, reader: str, path: Path) -> None:
    """Warn of a key that is read and that nothing can produce."""
    if key not in around and not references(key):
        message = f"stage {around.stage_id!r}: {reader} reads {cut(key)!r}, which nothing in this graph produces."
        findings.add("warning", message, path, around.stage_id)


def check_references(findings: Findings, around: Around, value: JsonValue, path: Path) -> None:
    """Doubt each `{{key}}` that can never have a value."""
    if not around.has_templates or (isinstance(value, str) and "{{" not in value):
        return
    for key in references(value):
        if key not in around:
            told = findings.nearest(key, around.keys.names)
            why = f"'{{{{{key}}}}}' has no value: nothing in this graph produces {key!r}.{told}"
            findings.add("doubt", f"stage {around.stage_id!r}: {why}", path, around.stage_id)
