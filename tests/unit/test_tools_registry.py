"""Tools from typed functions: what is derived, what is checked, and what cannot be a tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from activities.registry import Registry
from activities.tools import Tool, Toolbox, ToolContext, tool
from activities.tools.registry import ParametersRejected
from workflows.errors import AgentsRejected
from workflows.graph.policies import DenyTool, DenyToolParam


class Recipient(BaseModel):
    name: str
    age: Annotated[int, Field(ge=0)] = 0


@tool(name="send-letter", requires_approval=True, timeout_seconds=5)
async def send(
    to: Recipient, text: str, context: ToolContext, kind: Literal["plain", "sealed"] = "plain", copies: int = 1
) -> str:
    """Send a letter.

    It is never sent twice.

    Args:
        to: Who gets it.
        text (str): What it says,
            over several lines.

    Returns:
        The number of the letter.
    """
    return "1"


def bare() -> None:
    pass


def untyped(a) -> None:  # type: ignore[no-untyped-def]
    pass


def many(*names: str) -> None:
    pass


def unknown(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def strange(a: Callable[[], int]) -> None:
    pass


def yielding() -> Iterator[int]:
    yield 1


@tool(name="two words")
def misnamed() -> None:
    pass


def read_file(path: str) -> str:
    return path


def test_tool_is_derived_from_its_function() -> None:
    """Name, description, schema and options come from the signature, the docstring and @tool."""
    made = Tool.of(send)
    assert (made.name, made.is_async, made.requires_approval, made.timeout_seconds) == ("send-letter", True, True, 5)
    assert made.description == "Send a letter.\n\nIt is never sent twice."
    assert made.context_parameter == "context"
    assert made.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["to", "text"],
        "properties": {
            "to": {"$ref": "#/$defs/Recipient", "description": "Who gets it."},
            "text": {"type": "string", "description": "What it says, over several lines."},
            "kind": {"type": "string", "enum": ["plain", "sealed"], "default": "plain"},
            "copies": {"type": "integer", "default": 1},
        },
        "$defs": {
            "Recipient": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "default": 0}},
            }
        },
    }


def test_tool_without_parameters_takes_none() -> None:
    """A bare function is a tool, too."""
    made = Tool.of(bare)
    assert made.parameters == {"type": "object", "additionalProperties": False, "properties": {}}
    assert made.arguments({}) == {}


def test_tool_is_called_with_python_values() -> None:
    """JSON becomes what the annotations ask for; what is left out is the function's own default."""
    assert Tool.of(send).arguments({"to": {"name": "Ada"}, "text": "x"}) == {"to": Recipient(name="Ada"), "text": "x"}


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (
            {},
            "missing required parameter 'to' for tool 'send-letter'; "
            "missing required parameter 'text' for tool 'send-letter'",
        ),
        (
            {"to": {"name": "Ada"}, "txt": "x", "zebra": 1, "text": "x"},
            "unknown parameter 'txt' for tool 'send-letter'; the nearest known one is 'text'; "
            "unknown parameter 'zebra' for tool 'send-letter'",
        ),
        (
            {"to": {"age": -1}, "text": True, "copies": "3", "kind": "loud"},
            "parameter 'to' for tool 'send-letter': 'name' is a required property; "
            "parameter 'to.age' for tool 'send-letter': -1 is less than the minimum of 0; "
            "parameter 'text' for tool 'send-letter': True is not of type 'string'; "
            "parameter 'kind' for tool 'send-letter': 'loud' is not one of ['plain', 'sealed']; "
            "parameter 'copies' for tool 'send-letter': '3' is not of type 'integer'",
        ),
    ],
    ids=["missing", "unknown", "mistyped"],
)
def test_tool_refuses_parameters_by_its_schema(parameters: dict[str, Any], told: str) -> None:
    """Every fault is named, with its place and what was expected."""
    with pytest.raises(ParametersRejected) as rejected:
        Tool.of(send).arguments(parameters)
    assert sorted(str(rejected.value).split("; ")) == sorted(told.split("; "))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("Recipient", "is a class; a tool is a function."),
        ("__name__", "is of type 'str'; a tool is a function."),
        ("untyped", "has the parameter 'a' without a type; give each parameter one."),
        ("many", "has the parameter 'names', which cannot be passed by name; give it one of that kind."),
        ("unknown", "has types that cannot be read: name 'Nowhere' is not defined."),
        (
            "strange",
            "has a parameter of a type that JSON cannot hold: Cannot generate a JsonSchema for "
            "core_schema.CallableSchema.",
        ),
        ("yielding", "yields; a tool returns its result once."),
        ("misnamed", "has the name 'two words'; the name of a tool is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'."),
        ("read_file", "has the name 'read_file', which another tool has; give it one by @tool(name=…)."),
        ("gone", f"is missing: module '{__name__}' has no 'gone'."),
    ],
)
def test_registry_refuses_what_is_no_tool(function: str, told: str, tmp_path: Path) -> None:
    """A tool is checked when agents.toml is loaded, so the worker's start says what is wrong."""
    path = tmp_path / "agents.toml"
    path.write_text(f'[tools]\nfunctions = ["{__name__}:{function}"]')
    with pytest.raises(AgentsRejected) as rejected:
        Registry.load(path)
    assert rejected.value.message == f"{path}: tools: function '{__name__}:{function}' {told}"


def test_registry_serves_tools_and_policies(tmp_path: Path) -> None:
    """The built-in tools are always there; agents.toml adds its own, and what no action may do."""
    path = tmp_path / "agents.toml"
    path.write_text(
        f"""
        [tools]
        functions = ["{__name__}:send"]
        [[policies]]
        type = "deny_tool"
        target = "write_file"
        [[policies]]
        type = "deny_tool_param"
        target = "read_file"
        key = "path"
        pattern = ".env"
        """
    )
    builtin = ("calculate", "edit_file", "find_files", "grep_files", "list_dir", "read_file", "write_file")
    registry = Registry.load(path)
    assert Registry.empty().tools.names() == Toolbox.builtin().names() == builtin
    assert registry.tools.names() == tuple(sorted((*builtin, "send-letter")))
    assert registry.policies == (
        DenyTool(target="write_file"),
        DenyToolParam(target="read_file", key="path", pattern=".env"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tools = 1", "'tools' must be a table that names its functions, as [tools] functions = ['module:function']."),
        ("[tools]\nfunction = []", "'tools' has the unknown key 'function'; the nearest known one is 'functions'."),
        ("policies = 1", "'policies' must hold one table for each policy, as [[policies]]."),
        ("[[policies]]\n", "policy 1 has the type None. The types are 'deny_tool' and 'deny_tool_param'."),
        (
            "[[policies]]\ntype = 'deny_tool_parm'",
            "policy 1 has the type 'deny_tool_parm'. The types are 'deny_tool' and 'deny_tool_param'.",
        ),
        ("[[policies]]\ntype = 'deny_tool'", "policy 1: the key 'target' is missing."),
        (
            "[[policies]]\ntype = 'deny_tool'\ntarget = 't'\nkey = 'k'",
            "policy 1 has the unknown key 'key'. The known ones are 'target' and 'type'.",
        ),
        (
            "[[policies]]\ntype = 'require_state'\nkey = 'k'\nvalue = 1",
            "policy 1: 'require_state' judges the state of a run, which a worker does not see. "
            "Put it into the graph, under 'policies' in its metadata.",
        ),
    ],
)
def test_registry_refuses_tables_that_it_cannot_read(text: str, told: str, tmp_path: Path) -> None:
    """A policy with a mistake would forbid nothing, so nothing is served."""
    path = tmp_path / "agents.toml"
    path.write_text(text)
    with pytest.raises(AgentsRejected) as rejected:
        Registry.load(path)
    assert rejected.value.message == f"{path}: {told}"
