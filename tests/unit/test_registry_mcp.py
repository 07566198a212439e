"""The servers of tools in agents.toml: what is served, and what is said of a wrong entry."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from activities.registry import Registry
from activities.tools.mcp import McpSource
from activities.tools.servers import McpServer
from workflows.errors import AgentsRejected

SERVERS = """
[mcp.workshop]
command = ["workshop", "--stdio"]
env_names = ["WORKSHOP_TOKEN"]
tools = ["add"]
requires_approval = ["add"]

[mcp.tickets]
url = "https://tickets.example.com/mcp"
bearer_env = "TICKETS_TOKEN"
requires_approval = true

[agents.smith]
executor = "model"
model = "test"
tools = ["workshop", "tickets.open", "calculate"]
"""


def load(folder: Path, text: str) -> Registry:
    file = folder / "agents.toml"
    file.write_text(text)
    return Registry.load(file)


def test_servers_are_sources_of_tools(tmp_path: Path) -> None:
    """Each server is there by its name, for agents that name it or one of its tools."""
    registry = load(tmp_path, SERVERS)
    assert {name: type(source) for name, source in registry.sources.items()} == {
        "workshop": McpSource,
        "tickets": McpSource,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mcp = 3", "'mcp' must hold one table for each server, as [mcp.<name>]."),
        ("[mcp]\nshop = 3", "MCP server 'shop' must be a table, [mcp.shop]."),
        (
            "[mcp.'a.b']\nurl = 'https://a.b'",
            "MCP server 'a.b': the name of a server is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'.",
        ),
        (
            "[mcp.calculate]\nurl = 'https://a.b'",
            "MCP server 'calculate' has the name of a tool. Give it another, for agents name both in 'tools'.",
        ),
        (
            "[mcp.shop]\nurl = 'https://a.b'\nheader = {}",
            "MCP server 'shop' has the unknown key 'header'; the nearest known one is 'headers'.",
        ),
        ("[mcp.shop]", "MCP server 'shop': must have either a 'command' or a 'url'."),
        (
            "[mcp.shop]\nurl = 'https://me:s3cret@a.b'",
            "MCP server 'shop': 'url': must not hold a user name or password; name a variable in 'headers' instead.",
        ),
        (
            "[mcp.shop]\nurl = 'https://a.b'\nbearer_env = 's3cret-token'",
            "MCP server 'shop': 'bearer_env': must be the name of an environment variable: letters, digits and '_'.",
        ),
        (
            "[mcp.shop]\nurl = 'https://a.b'\nheaders = {Authorization = 'Bearer s3cret'}",
            "MCP server 'shop': 'headers.Authorization': must be the name of an environment variable: letters, digits "
            "and '_'.",
        ),
        (
            "[mcp.shop]\nurl = 'https://a.b'\nrequires_approval = 'add'",
            "MCP server 'shop': 'requires_approval' is 'add': must be true, or a list of the names of tools.",
        ),
        (
            "[agents.a]\nexecutor = 'model'\nmodel = 'test'\ntools = ['shpo']\n[mcp.shop]\nurl = 'https://a.b'",
            "agent 'a' names the unknown tool 'shpo'; the nearest known one is 'shop'.",
        ),
    ],
    ids=[
        *("no table", "no table of a server", "name", "name of a tool", "unknown key", "neither", "password"),
        *("token", "header", "guard", "agent"),
    ],
)
def test_wrong_server_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """The line names the server and the key, and quotes nothing that may be a secret."""
    with pytest.raises(AgentsRejected) as rejected:
        load(tmp_path, text)
    assert rejected.value.message == f"{tmp_path / 'agents.toml'}: {problem}"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "must have either a 'command' or a 'url'"),
        ({"command": ["a"], "url": "https://a.b/c"}, "must have either a 'command' or a 'url'"),
        ({"command": [""]}, "has a 'command' whose program has no name"),
        ({"command": ["a"], "bearer_env": "A"}, "has a 'command', to which 'bearer_env' do not belong"),
        ({"url": "a.b/c"}, "must be an address, as https://host/path"),
        (
            {"url": "https://me:secret@a.b"},
            "must not hold a user name or password; name a variable in 'headers' instead",
        ),
        ({"url": "https://a.b", "bearer_env": "Bearer x"}, "must be the name of an environment variable"),
        ({"url": "https://a.b", "headers": {"X Y": "A"}}, "is not the name of an HTTP header"),
        ({"url": "https://a.b", "prefix": "a."}, "must be at most 40 of A-Z, a-z, 0-9, '_' and '-'"),
        (
            {"url": "https://a.b", "headers": {"authorization": "A"}, "bearer_env": "B"},
            "has both 'bearer_env' and an Authorization header; one of them is enough",
        ),
    ],
    ids=[
        *("neither", "both", "no program", "of the other kind", "no address", "password", "no variable", "no header"),
        *("prefix", "twice"),
    ],
)
def test_entry_is_refused(entry: dict[str, Any], text: str) -> None:
    """A wrong entry is refused when the file is read."""
    with pytest.raises(ValidationError, match=text):
        McpServer.model_validate({"name": "workshop", **entry})
