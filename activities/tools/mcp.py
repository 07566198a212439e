"""Tools that a server offers over the Model Context Protocol.

Law: one connection for each worker and server, opened when it is first needed and again after it has ended. A call that
is under way when it ends fails, and says that it may have had its effect; it is never sent twice.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import JsonValue, ValidationError

from activities.secrets import without_secrets, without_values
from activities.stopping import leave
from activities.tools.calling import DEFAULT_TIMEOUT_SECONDS, ERROR_CHARACTERS, STOP_SECONDS, largest_result
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.mcp_connection import Connection
from activities.tools.servers import McpServer
from activities.tools.source import OfferedTool
from workflows.errors import RetryableStepError, StepFailed, cut

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock, Tool

NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
NAME_CHARACTERS = 64
# What every model provider takes as the name of a tool.
NAMELESS = "_"
# What models know a tool as that has no name; a provider would refuse every request that offers it so.
MAX_PAGES = 100
# Of a listing. A server that always has another page must end some day.
LIST_SECONDS = 60.0
IDEMPOTENCY_KEY = "perdure/idempotency_key"
# In a request's `_meta`, whose other keys a server passes over.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.mcp")


class McpSource:
    """The tools of one server. Belongs to one worker, and to its event loop."""

    def __init__(self, server: McpServer, *, workspace: Path | None = None) -> None:
        self._server = server
        self._workspace = workspace
        self._connection: Connection | None = None

    async def tools(self) -> Sequence[OfferedTool]:
        """What the server offers now and its entry allows.

        Raises `RetryableStepError` where the server cannot be reached, `StepFailed` where the entry does not fit it.
        """
        listed = {tool.name: tool for tool in await self._listed()}
        self._check_names(listed)
        allowed = listed if self._server.tools is None else self._server.tools
        offered: dict[str, OfferedTool] = {}
        for name in allowed:
            tool = self._offered(listed[name])
            if tool.name in offered:
                raise StepFailed(
                    f"MCP server {self._server.name!r} offers two tools that models would know as {tool.name!r}. "
                    "Name one of them in its 'tools'"
                )
            offered[tool.name] = tool
        return tuple(offered.values())

    async def close(self) -> None:
        """End the connection, and with it a program that was started for it. A later use opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _listed(self) -> list[Tool]:
        connection = self._current()
        client = await connection.client()
        work = asyncio.create_task(_pages(client), name=f"mcp {self._server.name} tools")
        await _ended(work, connection, LIST_SECONDS)
        if not work.done() or work.cancelled():
            connection.leave()
            raise RetryableStepError(f"MCP server {self._server.name!r} did not list its tools")
        if (error := work.exception()) is not None:
            connection.leave()
            text = f"MCP server {self._server.name!r} did not list its tools: {self._told(error)}"
            # A list that breaks the protocol is the same next time; what was lost on the way is not.
            raise StepFailed(text) if isinstance(error, ValueError) else RetryableStepError(text)
        return work.result()

    def _current(self) -> Connection:
        """The connection, a new one where it has ended."""
        if self._connection is None or self._connection.is_over:
            self._connection = Connection(self._server, self._workspace)
        return self._connection

    def _check_names(self, listed: Iterable[str]) -> None:
        """Refuse names of the entry that the server does not know: a guard that misses its tool guards nothing."""
        approval = self._server.requires_approval
        for key, names in (("tools", self._server.tools), ("requires_approval", approval)):
            unknown = [name for name in names if name not in listed] if isinstance(names, tuple) else []
            if unknown:
                known = ", ".join(repr(name) for name in sorted(listed)) or "none"
                raise StepFailed(
                    f"MCP server {self._server.name!r} has no tool {unknown[0]!r}, which its {key!r} names. "
                    f"It offers: {cut(known, 1_000)}"
                )

    def _offered(self, tool: Tool) -> OfferedTool:
        approval = self._server.requires_approval
        name = NOT_IN_A_NAME.sub("_", f"{self._server.prefix}{tool.name}")[:NAME_CHARACTERS] or NAMELESS
        return OfferedTool(
            name=name,
            description=(tool.description or tool.title or "").strip(),
            parameters=_parameters(tool),
            call=functools.partial(self._call, tool.name),
            requires_approval=approval if isinstance(approval, bool) else tool.name in approval,
        )

    async def _call(
        self, name: str, arguments: dict[str, JsonValue], context: ToolContext, timeout_seconds: float | None
    ) -> JsonValue:
        """Call a tool by the server's own name; its result as text."""
        limit = self._server.timeout_seconds or timeout_seconds or DEFAULT_TIMEOUT_SECONDS
        try:
            connection = self._current()
            client = await connection.client()
        except StepFailed as error:
            raise ToolFailed(error.message) from None
        except RetryableStepError as error:
            raise ToolFailed(str(error)) from None
        meta: Any = {IDEMPOTENCY_KEY: context.idempotency_key}
        work = asyncio.create_task(client.call_tool(name, arguments, meta=meta), name=f"mcp {self._server.name} {name}")
        await _ended(work, connection, limit)
        if work.done() and not work.cancelled():
            return self._result(name, work, connection)
        if connection.is_over:
            raise self._lost(name)
        raise ToolFailed(f"tool '{name}' timed out after {round(limit * 1000)}ms")

    def _result(self, name: str, work: asyncio.Task[CallToolResult], connection: Connection) -> JsonValue:
        error = work.exception()
        if error is not None:
            if _is_lost(error) or connection.is_over:
                connection.leave()
                raise self._lost(name)
            raise ToolFailed(f"MCP server {self._server.name!r} refused the call of {name!r}: {self._told(error)}")
        result = work.result()
        text = _text(result)
        if result.is_error:
            text = without_secrets(text, self._server.variables)
            raise ToolFailed(cut(text or f"tool '{name}' failed and did not say why", ERROR_CHARACTERS))
        size = len(text.encode("utf-8", "backslashreplace"))
        if size > largest_result():
            raise ToolFailed(
                f"tool '{name}' returned {size / 1e6:.1f} MB and the limit is {largest_result() / 1e6:.1f} MB. "
                "Ask it for less."
            )
        return text

    def _told(self, error: BaseException) -> str:
        """What an error says; a server may quote what it was given."""
        text = _said(error).encode("utf-8", "backslashreplace").decode()
        return cut(without_secrets(text, self._server.variables), ERROR_CHARACTERS)

    def _lost(self, name: str) -> ToolFailed:
        return ToolFailed(
            f"MCP server {self._server.name!r} was lost while it ran {name!r}. The call may have had its effect."
        )


async def _ended(work: asyncio.Task[Any], connection: Connection, seconds: float) -> None:
    """Wait for the end of the work, of its connection, or of the time; work that is left over is cancelled."""
    try:
        await asyncio.wait([work, connection.task], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if connection.task.done() and not work.done():
            await asyncio.wait([work], timeout=STOP_SECONDS)  # its answer may have come in the same breath
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait([work], timeout=STOP_SECONDS)  # the server is told that nobody waits any more
        leave(work)


async def _pages(client: Any) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise ValueError(f"its list has more than {MAX_PAGES} pages")


def _parameters(tool: Tool) -> dict[str, JsonValue]:
    return {"type": "object", "properties": {}, **tool.input_schema}


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone: closed, or its session forgotten by a server that was started anew."""
    from mcp import MCPError
    from mcp_types import CONNECTION_CLOSED

    if not isinstance(error, MCPError):
        return False
    return error.code == CONNECTION_CLOSED or error.message == "Session terminated"


def _said(error: BaseException) -> str:
    from mcp import MCPError

    if isinstance(error, ValidationError):
        return f"it answered what is not of the protocol: {without_values(error)}"
    return error.message if isinstance(error, MCPError) else f"{type(error).__name__}: {error}"


def _text(result: CallToolResult) -> str:
    """A result as a model reads it: the object where there is one, else the text of each part."""
    structured = result.structured_content
    if structured is not None and not result.is_error:
        value = structured["result"] if isinstance(structured, dict) and structured.keys() == {"result"} else structured
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "\n".join(_part(part) for part in result.content)


def _part(part: ContentBlock) -> str:
    match part.type:
        case "text":
            return part.text
        case "resource_link":
            return f"{part.name}: {part.uri}"
        case "resource":
            text = getattr(part.resource, "text", None)
            return text if text is not None else f"[{part.resource.uri} is not text, and was left out]"
        case _:
            return f"[{part.type} of type {part.mime_type}, left out: only text is passed on]"
