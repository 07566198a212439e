"""agents.toml: which executor runs which agent, which tools there are, and what no action may do.

Law: what is served was checked when it was loaded. A wrong file is refused whole, with all that is wrong in it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from activities.tools.registry import Tool, Toolbox
from workflows.errors import AgentsRejected, cut
from workflows.graph.policies import DenyTool, DenyToolParam, ToolPolicy

DEFAULT_MAX_OUTPUT_BYTES = 1_000_000
# Half of what a history takes as one payload, for an output that is JSON is stored twice: as text and structured.

TOP_LEVEL_KEYS = ("agents", "default_model", "policies", "tools")
TOOLS_KEYS = ("functions",)
POLICIES: dict[str, type[DenyTool | DenyToolParam]] = {"deny_tool": DenyTool, "deny_tool_param": DenyToolParam}


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a null character")
    return text


Word = Annotated[str, AfterValidator(_without_null)]
"""Text that a program can be given."""


class _Agent(BaseModel):
    """What every agent has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The entry's own key in `[agents.<name>]`; not written inside it."""
    description: str = ""
    timeout_seconds: PositiveFloat | None = None
    """Limit on one attempt."""


class CommandAgent(_Agent):
    """A program: the prompt on its stdin, its answer on stdout, success by exit status."""

    executor: Literal["command"] = "command"
    command: Annotated[tuple[Word, ...], Field(min_length=1)]
    """The program and its arguments; no shell reads them."""
    output: Literal["text", "json"] = "text"
    env: dict[Word, Word] = Field(default_factory=dict)
    """Added to the worker's own environment."""
    cwd: Word | None = None
    """Where it runs, seen from the workspace; unset, the workspace."""
    max_output_bytes: PositiveInt = DEFAULT_MAX_OUTPUT_BYTES
    """A program that writes more to stdout is ended, and its step fails."""


class EchoAgent(_Agent):
    """Answers with its prompt, after a script; for tests and demos."""

    executor: Literal["echo"] = "echo"
    answer: str | None = None
    """Answered instead of the prompt."""
    turns: PositiveInt = 1
    """How often it waits and spends; with more than one it leaves a checkpoint after each."""
    delay_seconds: NonNegativeFloat = 0.0
    """Waited in each turn."""
    tokens: NonNegativeInt = 0
    """Spent in each turn."""
    cost_usd: NonNegativeFloat | None = None
    """Spent in each turn."""
    fail: str | None = None
    """Fails for good with this text, instead of answering."""
    fail_attempts: NonNegativeInt = 0
    """How many attempts fail first in a way that is worth another attempt."""


@dataclass(frozen=True, slots=True)
class AgentFunction:
    """A function agent's function, and how to call it."""

    callable: Callable[..., Any]
    is_async: bool
    takes_context: bool


class FunctionAgent(_Agent):
    """A Python function: `def` (runs in a thread) or `async def`, taking (step) or (step, context)."""

    executor: Literal["function"] = "function"
    function: str
    """`module:attribute`, importable where the worker runs."""

    def resolve(self) -> AgentFunction:
        """The function. Raises ValueError, saying what it is instead, where it is none that can serve."""
        return _agent_function(_found(self.function))


AgentEntry = CommandAgent | FunctionAgent | EchoAgent
KINDS: dict[str, type[CommandAgent | FunctionAgent | EchoAgent]] = {
    "command": CommandAgent,
    "echo": EchoAgent,
    "function": FunctionAgent,
}


def _found(reference: str) -> Any:
    """What `module:attribute` stands for. Raises ValueError, saying why there is nothing."""
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise ValueError("is not written as 'module:attribute'")
    found: Any = _imported(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"is missing: module {module!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise ValueError(f"cannot be imported: {type(error).__name__}: {cut(str(error))}") from error


def _agent_function(found: Any) -> AgentFunction:
    if inspect.isclass(found) or not callable(found):
        kind = "a class" if inspect.isclass(found) else f"of type {type(found).__name__!r}"
        raise ValueError(f"is {kind}; an agent is a function")
    call = type(found).__call__ if not inspect.isroutine(found) else found
    if any(check(one) for check in (inspect.isgeneratorfunction, inspect.isasyncgenfunction) for one in (found, call)):
        raise ValueError("yields; an agent returns its answer once")
    return AgentFunction(
        callable=found,
        is_async=inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(call),
        takes_context=_takes_context(found),
    )


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether a function is called with (step, context); a second parameter with a default counts if so named."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False  # some built-ins tell nothing about themselves; the call will
    if _binds(signature, 2) and (not _binds(signature, 1) or "context" in list(signature.parameters)[1:2]):
        return True
    if _binds(signature, 1):
        return False
    raise ValueError(f"takes {signature}; an agent takes (step) or (step, context)")


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


class Registry:
    """The agents and tools that a worker serves, and its policies. Without `tools`: the built-in ones."""

    def __init__(
        self,
        entries: Iterable[AgentEntry] = (),
        *,
        default_model: str | None = None,
        tools: Toolbox | None = None,
        policies: Iterable[ToolPolicy] = (),
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self.default_model = default_model
        self.tools = Toolbox.builtin() if tools is None else tools
        self.policies = tuple(policies)

    @classmethod
    def empty(cls) -> Registry:
        """A registry without agents."""
        return cls()

    @classmethod
    def load(cls, path: Path | str) -> Registry:
        """The agents, tools and policies of a file, functions imported and checked.

        Raises `AgentsRejected` with one line for each thing that is wrong.
        """
        document = _parsed(path)
        entries: list[AgentEntry] = []
        problems = [*_top_level_problems(document)]
        agents = document.get("agents", {})
        for name, table in agents.items() if isinstance(agents, dict) else ():
            entry = _entry(name, table)
            if isinstance(entry, _Agent):
                entries.append(entry)
            else:
                problems += entry
        tools = _tools(document.get("tools", {}), problems)
        policies = _policies(document.get("policies", []), problems)
        if problems:
            raise AgentsRejected("\n".join(f"{path}: {problem}" for problem in problems))
        return cls(entries, default_model=document.get("default_model"), tools=tools, policies=policies)

    def get(self, name: str) -> AgentEntry | None:
        """The entry of an agent; None where there is none."""
        return self._entries.get(name)

    def names(self) -> tuple[str, ...]:
        """The agents' names, sorted."""
        return tuple(sorted(self._entries))


def _parsed(path: Path | str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AgentsRejected(f"{path}: the file cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise AgentsRejected(f"{path}: the file is not UTF-8 text: byte {error.start} does not belong there.") from None
    except tomllib.TOMLDecodeError as error:
        raise AgentsRejected(_not_toml(path, str(error))) from None


def _not_toml(path: Path | str, error: str) -> str:
    """A syntax error with its place in front; tomllib writes it behind."""
    fault = re.fullmatch(r"(.*) \((?:at line (\d+), column (\d+)|at end of document)\)", error, re.DOTALL)
    if fault is None:
        return f"{path}: this is not TOML: {error}."
    if fault[2] is None:
        return f"{path}: this is not TOML: {fault[1]} at the end of the file."
    return f"{path}:{fault[2]}:{fault[3]}: this is not TOML: {fault[1]}."


def _top_level_problems(document: Mapping[str, Any]) -> Iterable[str]:
    for key in document.keys() - set(TOP_LEVEL_KEYS):
        yield f"the unknown top-level key {cut(key)!r}{_nearest(key, TOP_LEVEL_KEYS)}"
    if not isinstance(document.get("default_model", ""), str):
        yield "'default_model' must be the name of a model, as text."
    if not isinstance(document.get("agents", {}), dict):
        yield "'agents' must hold one table for each agent, as [agents.<name>]."


def _entry(name: str, table: Any) -> AgentEntry | Sequence[str]:
    """An agent's entry, or what is wrong with it."""
    subject = f"agent {cut(name)!r}"
    if not isinstance(table, dict):
        return [f"{subject} must be a table, [agents.{cut(name)}]."]
    kinds = _listed(KINDS)
    if "executor" not in table:
        return [f"{subject} does not say its executor. The executors are {kinds}."]
    kind = KINDS.get(table["executor"]) if isinstance(table["executor"], str) else None
    if kind is None:
        return [f"{subject} names the executor {cut(str(table['executor']))!r}. The executors are {kinds}."]
    keys = [key for key in kind.model_fields if key != "name"]
    unknown = [f"{subject} has the unknown key {cut(key)!r}{_nearest(key, keys)}" for key in table if key not in keys]
    try:
        entry = kind.model_validate({**{key: table[key] for key in keys if key in table}, "name": name})
    except ValidationError as error:
        return [*unknown, *(f"{subject}: {_told(fault)}" for fault in error.errors(include_url=False))]
    return unknown or _checked(subject, entry)


def _checked(subject: str, entry: AgentEntry) -> AgentEntry | Sequence[str]:
    if isinstance(entry, FunctionAgent):
        try:
            entry.resolve()
        except ValueError as error:
            return [f"{subject}: function {cut(entry.function)!r} {error}."]
    if isinstance(entry, CommandAgent) and not entry.command[0]:
        return [f"{subject}: the program in 'command' has no name."]
    return entry


def _tools(table: Any, problems: list[str]) -> Toolbox:
    """The built-in tools and those of `[tools]`; what is wrong is added to the problems."""
    tools = Toolbox.builtin()
    functions = table.get("functions", []) if isinstance(table, dict) else None
    if not (isinstance(functions, list) and all(isinstance(function, str) for function in functions)):
        problems.append("'tools' must be a table that names its functions, as [tools] functions = ['module:function'].")
        return tools
    unknown = table.keys() - set(TOOLS_KEYS)
    problems += [f"'tools' has the unknown key {cut(key)!r}{_nearest(key, TOOLS_KEYS)}" for key in sorted(unknown)]
    for function in functions:
        try:
            tools = tools.with_tool(Tool.of(_found(function)))
        except ValueError as error:
            problems.append(f"tools: function {cut(function)!r} {error}.")
    return tools


def _policies(tables: Any, problems: list[str]) -> Sequence[ToolPolicy]:
    """The policies of `[[policies]]`; what is wrong is added to the problems."""
    if not isinstance(tables, list):
        problems.append("'policies' must hold one table for each policy, as [[policies]].")
        return ()
    found = [_policy(f"policy {number}", table) for number, table in enumerate(tables, 1)]
    problems += [fault for one in found if isinstance(one, list) for fault in one]
    return [one for one in found if not isinstance(one, list)]


def _policy(subject: str, table: Any) -> ToolPolicy | list[str]:
    """A policy, or what is wrong with it."""
    kind = table.get("type") if isinstance(table, dict) else None
    if kind == "require_state":
        return [
            f"{subject}: 'require_state' judges the state of a run, which a worker does not see. "
            "Put it into the graph, under 'policies' in its metadata."
        ]
    if not isinstance(kind, str) or kind not in POLICIES:
        return [f"{subject} has the type {cut(repr(kind))}. The types are {_listed(POLICIES)}."]
    try:
        return POLICIES[kind].model_validate(table)
    except ValidationError as error:
        known = POLICIES[kind].model_fields
        return [
            f"{subject} has the unknown key {cut(str(fault['loc'][0]))!r}{_nearest(str(fault['loc'][0]), known)}"
            if fault["type"] == "extra_forbidden"
            else f"{subject}: {_told(fault)}"
            for fault in error.errors(include_url=False)
        ]


def _told(fault: Any) -> str:
    """A fault that pydantic found, in one sentence. Values of `env` are never quoted: they may be secrets."""
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "missing":
        return f"the key {key!r} is missing."
    message = fault["msg"].removeprefix("Value error, ")
    found = "" if fault["loc"][:1] == ("env",) else f" is {cut(repr(fault['input']))}"
    return f"{key!r}{found}: {message[:1].lower()}{message[1:]}."


def _nearest(key: str, known: Iterable[str]) -> str:
    """The end of a sentence that names an unknown key."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; the nearest known one is {near[0]!r}." if near else f". The known ones are {_listed(known)}."


def _listed(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in sorted(names)]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
