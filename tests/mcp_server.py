"""A server of tools over MCP, written with the protocol's own package: `python -m tests.mcp_server [--port N]`.

Without a port it talks over stdin and stdout, with one over HTTP, after a line on stdout that says where.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ImageContent, TextContent

server = MCPServer("workshop", log_level="WARNING")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool()
def describe(name: str) -> dict[str, Any]:
    """A thing, as an object."""
    return {"name": name, "parts": [1, 2]}


@server.tool()
def draw() -> list[TextContent | ImageContent]:
    """A text and a picture."""
    return [
        TextContent(type="text", text="a square"),
        ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
    ]


@server.tool()
def fail(text: str) -> str:
    """Fails with a text."""
    raise ToolError(text)


@server.tool()
def fill(characters: int) -> str:
    """A text of a length."""
    return "x" * characters


@server.tool()
async def wait(file: str, for_seconds: float = 60) -> str:
    """Writes its process id into a file, then waits."""
    Path(file).write_text(str(os.getpid()))  # noqa: ASYNC240  # a test reads it
    await asyncio.sleep(for_seconds)
    return "waited"


@server.tool()
def whoami() -> dict[str, Any]:
    """The server's process id, folder and what it finds in its environment."""
    return {"pid": os.getpid(), "folder": str(Path.cwd()), "environment": dict(os.environ)}


@server.tool()
def header(name: str, context: Context[Any, Any]) -> str:
    """A header of the request that called this."""
    request = context.request_context.request
    return str(request.headers.get(name)) if request else "none"


@server.tool()
def key(context: Context[Any, Any]) -> str:
    """The idempotency key that came with the call."""
    return str((context.request_context.meta or {}).get("perdure/idempotency_key"))


@server.tool()
def complain(text: str) -> str:
    """Writes to stderr."""
    print(text, file=sys.stderr, flush=True)
    return "said"


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port: int | None = parser.parse_args().port
    if port is None:
        server.run("stdio")
        return
    listening = socket.create_server(("127.0.0.1", port))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
