"""agents.toml: which executor runs which agent, which tools there are, and what no action may do.

Law: what is served was checked when it was loaded. A wrong file is refused whole, with all that is wrong in it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from activities.entries import (
    KINDS,
    Agent,
    AgentEntry,
    AgentFunction,
    CommandAgent,
    EchoAgent,
    FunctionAgent,
    ModelAgent,
    found_at,
)
from activities.model_names import fault_in
from activities.tools.registry import Tool, Toolbox
from activities.tools.servers import SERVER_NAME, McpServer
from activities.tools.source import ToolSource
from workflows.errors import AgentsRejected, cut
from workflows.graph.policies import DenyTool, DenyToolParam, ToolPolicy
from workflows.parsing import reason_of

__all__ = [
    "AgentEntry",
    "AgentFunction",
    "CommandAgent",
    "EchoAgent",
    "FunctionAgent",
    "ModelAgent",
    "Registry",
]

TOP_LEVEL_KEYS = ("agents", "default_model", "mcp", "policies", "rates", "tools")
TOOLS_KEYS = ("functions",)
POLICIES: dict[str, type[DenyTool | DenyToolParam]] = {"deny_tool": DenyTool, "deny_tool_param": DenyToolParam}

DELEGATE = "delegate"
"""The tool by which a model agent hands a subtask to another agent."""

UNQUOTED = ("env", "env_names", "settings", "base_url", "api_key_env", "url", "headers", "bearer_env")
"""Keys whose values may be secrets, or hold one."""


class Registry:
    """The agents and tools that a worker serves, and its policies. Without `tools`: the built-in ones."""

    def __init__(
        self,
        entries: Iterable[AgentEntry] = (),
        *,
        default_model: str | None = None,
        tools: Toolbox | None = None,
        policies: Iterable[ToolPolicy] = (),
        sources: Mapping[str, ToolSource] | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self.default_model = default_model
        self.tools = Toolbox.builtin() if tools is None else tools
        self.policies = tuple(policies)
        self.sources = dict(sources or {})
        """Servers of tools for model agents, by name."""
        self.rates = dict(rates or {})
        """Requests a second that one worker sends to a model, by the model's name as agents write it."""

    @classmethod
    def empty(cls) -> Registry:
        """A registry without agents."""
        return cls()

    @classmethod
    def load(cls, path: Path | str, *, default_model: str | None = None, workspace: Path | None = None) -> Registry:
        """The agents, tools and policies of a file, functions imported and checked.

        A given `default_model` wins over the file's. Servers of tools run in the workspace. Raises `AgentsRejected`
        with one line for each thing that is wrong.
        """
        document = _parsed(path)
        entries: list[AgentEntry] = []
        problems = [*_top_level_problems(document)]
        agents = document.get("agents", {})
        for name, table in agents.items() if isinstance(agents, dict) else ():
            entry = _entry(name, table)
            if isinstance(entry, Agent):
                entries.append(entry)
            else:
                problems += entry
        tools = _tools(document.get("tools", {}), problems)
        policies = _policies(document.get("policies", []), problems)
        registry = cls(
            entries,
            default_model=default_model or document.get("default_model"),
            tools=tools,
            policies=policies,
            sources=_sources(document.get("mcp", {}), tools, workspace, problems),
            rates=_rates(document.get("rates", {}), problems),
        )
        known = tuple(agents) if isinstance(agents, dict) else ()
        for entry in entries:
            if isinstance(entry, ModelAgent):
                problems += _model_agent_problems(entry, registry, known, default_model)
        if problems:
            raise AgentsRejected("\n".join(f"{path}: {problem}" for problem in problems))
        return registry

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


def _rates(table: Any, problems: list[str]) -> dict[str, float]:
    """Requests a second by model; what is wrong is added to the problems."""
    if not isinstance(table, dict):
        problems.append("'rates' must be a table of requests a second by model, as [rates] \"openai:gpt-5-mini\" = 5.")
        return {}
    rates: dict[str, float] = {}
    for model, rate in table.items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            problems.append(
                f"rates: {cut(model)!r} is {cut(repr(rate))}; a rate is a number above 0, requests a second."
            )
        else:
            rates[model] = float(rate)
    return rates


def _top_level_problems(document: Mapping[str, Any]) -> Iterable[str]:
    for key in document.keys() - set(TOP_LEVEL_KEYS):
        yield f"the unknown top-level key {cut(key)!r}{_nearest(key, TOP_LEVEL_KEYS)}"
    default = document.get("default_model")
    if default is not None and not isinstance(default, str):
        yield "'default_model' must be the name of a model, as text."
    elif default is not None and (fault := fault_in(default)):
        yield f"'default_model' is {cut(default)!r}, which {fault}."
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


def _model_agent_problems(
    entry: ModelAgent, registry: Registry, agents: Sequence[str], default_model: str | None
) -> Iterable[str]:
    subject = f"agent {cut(entry.name)!r}"
    if not entry.model and registry.default_model is None:
        yield (
            f"{subject} names no model, and there is no default one. Set its 'model', 'default_model' at the top of "
            "the file, or PERDURE_MODEL."
        )
    for model in entry.model or ((default_model,) if default_model else ()):  # the file's own is judged where it stands
        if fault := fault_in(model, base_url=entry.base_url):
            yield f"{subject}: model {cut(model)!r} {fault}."
    for name in entry.tools:
        if registry.tools.get(name) is None and name.partition(".")[0] not in registry.sources:
            yield f"{subject} names the unknown tool {cut(name)!r}{_nearest(name, _offered(registry))}"
    for name in entry.delegates:
        if name not in agents:
            yield f"{subject} names the unknown delegate {cut(name)!r}{_nearest(name, agents)}"
    if entry.delegates and DELEGATE in entry.tools:
        yield f"{subject} has delegates, and a tool named {DELEGATE!r}. Give the tool another name."


def _offered(registry: Registry) -> Sequence[str]:
    """What an agent may name in `tools`."""
    return (*registry.tools.names(), *registry.sources)


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
            tools = tools.with_tool(Tool.of(found_at(function)))
        except ValueError as error:
            problems.append(f"tools: function {cut(function)!r} {error}.")
    return tools


def _sources(tables: Any, tools: Toolbox, workspace: Path | None, problems: list[str]) -> Mapping[str, ToolSource]:
    """The servers of `[mcp.<name>]`; what is wrong is added to the problems."""
    from activities.tools.mcp import McpSource
    from activities.tools.mcp_connection import is_installed

    if not isinstance(tables, dict):
        problems.append("'mcp' must hold one table for each server, as [mcp.<name>].")
        return {}
    if tables and not is_installed():
        problems.append("'mcp' names servers, and the package for them is missing: pip install 'perdure[mcp]'.")
    servers = [_server(name, table, tools) for name, table in tables.items()]
    problems += [fault for one in servers if isinstance(one, list) for fault in one]
    return {one.name: McpSource(one, workspace=workspace) for one in servers if isinstance(one, McpServer)}


def _server(name: str, table: Any, tools: Toolbox) -> McpServer | list[str]:
    """A server's entry, or what is wrong with it."""
    subject = f"MCP server {cut(name)!r}"
    if not isinstance(table, dict):
        return [f"{subject} must be a table, [mcp.{cut(name)}]."]
    if not SERVER_NAME.fullmatch(name):
        return [f"{subject}: the name of a server is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'."]
    if tools.get(name) is not None:
        return [f"{subject} has the name of a tool. Give it another, for agents name both in 'tools'."]
    keys = [key for key in McpServer.model_fields if key != "name"]
    unknown = [f"{subject} has the unknown key {cut(key)!r}{_nearest(key, keys)}" for key in table if key not in keys]
    try:
        server = McpServer.model_validate({**{key: table[key] for key in keys if key in table}, "name": name})
    except ValidationError as error:
        return [*unknown, *(f"{subject}: {_told(fault)}" for fault in error.errors(include_url=False))]
    return unknown or server


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
    """A fault that pydantic found, in one sentence. What may be a secret is never quoted."""
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "missing":
        return f"the key {key!r} is missing."
    if not key:  # the entry as a whole: the message names its keys
        return f"{fault['msg'].removeprefix('Value error, ')}."
    found = "" if fault["loc"][0] in UNQUOTED else f" is {cut(repr(fault['input']))}"
    return f"{key!r}{found}: {reason_of(fault)}."


def _nearest(key: str, known: Iterable[str]) -> str:
    """The end of a sentence that names an unknown key."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; the nearest known one is {near[0]!r}." if near else f". The known ones are {_listed(known)}."


def _listed(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in sorted(names)]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
