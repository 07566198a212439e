"""A connection to a server of tools: opened once, held by a task of its own, and closed in it.

Law: a connection that has ended is never used again, and a program that was started here is ended with it.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import ValidationError

from activities.secrets import without_secrets
from activities.tools.servers import McpServer
from workflows.errors import PerdureError, RetryableStepError, StepFailed, cut

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from mcp.client._transport import ReadStream, TransportStreams

OPEN_SECONDS = 60.0
# A server that is fetched from a registry when it is first started takes its time.
CLOSE_SECONDS = 10.0
# The library asks a program to end, and kills it after four seconds.
CONNECT_SECONDS = 20.0
LINE_CHARACTERS = 2_000
# Of what a server writes to stderr, per line of the log.
REASON_CHARACTERS = 300
REFUSED = (401, 403)
# Trying again with the same key is refused again.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.mcp")


def is_installed() -> bool:
    """Whether the extra 'mcp' is there."""
    return importlib.util.find_spec("mcp") is not None


class Connection:
    """An open connection, or one that is being opened. Made on the worker's event loop."""

    def __init__(self, server: McpServer, workspace: Path | None) -> None:
        self._server = server
        self._workspace = workspace
        self._leave = asyncio.Event()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._status: int | None = None
        """The last HTTP status that told of an error."""
        self._log = _log.bind(server=server.name)
        # The protocol's client must be left by the task that entered it; and in an empty context, for the connection
        # outlives the step that happened to open it.
        self.task = asyncio.create_task(self._hold(), name=f"mcp {server.name}", context=contextvars.Context())
        self._client.add_done_callback(lambda client: client.cancelled() or client.exception())

    @property
    def is_over(self) -> bool:
        """Whether it must not be used any more."""
        return self._leave.is_set() or self.task.done()

    async def client(self) -> Client:
        """The protocol's client, once it is there.

        Raises `RetryableStepError` where the server cannot be reached, `StepFailed` where it never will be.
        """
        return await asyncio.shield(self._client)  # others wait for it too

    def leave(self) -> None:
        """Use it no more."""
        self._leave.set()

    async def close(self) -> None:
        """End it, some seconds at most."""
        self.leave()
        done, _ = await asyncio.wait([self.task], timeout=CLOSE_SECONDS)
        if not done:
            self.task.cancel()
            self._log.warning("An MCP server did not end, and was left behind.", waited_seconds=CLOSE_SECONDS)

    async def _hold(self) -> None:
        try:
            await asyncio.to_thread(_load)  # a second of imports, for which the event loop must not be held
            async with asyncio.timeout(OPEN_SECONDS) as opening, self._opened() as client:
                opening.reschedule(None)
                self._client.set_result(client)
                self._log.info("An MCP server is connected.", tools_of=client.server_info and client.server_info.name)
                await self._leave.wait()
        except asyncio.CancelledError:
            self._fail(RetryableStepError(f"MCP server {self._server.name!r} was closed while it was opened"))
            raise
        except Exception as error:  # noqa: BLE001 - a server may end in any way, and whoever waits must be told
            if not self._fail(self._failure(error)):
                self._log.warning("The connection to an MCP server has ended.", reason=self._reason(error))
        finally:
            self._leave.set()

    def _fail(self, failure: Exception) -> bool:
        """Tell those who wait for the client; False where it was there already."""
        if self._client.done():
            return False
        self._client.set_exception(failure)
        return True

    def _failure(self, error: Exception) -> Exception:
        """Why it could not be opened."""
        name = self._server.name
        if isinstance(error, PerdureError):
            return error
        if isinstance(error, TimeoutError):
            return RetryableStepError(f"MCP server {name!r} did not answer within {OPEN_SECONDS:g} s")
        if isinstance(error, ImportError):
            return StepFailed(f"MCP server {name!r} needs the extra 'mcp': pip install 'perdure[mcp]'")
        if self._server.command is not None and isinstance(error, OSError):
            program = self._server.command[0]
            return StepFailed(f"MCP server {name!r} cannot be started: {program!r}: {error.strerror or error}")
        if self._status in REFUSED:
            return StepFailed(
                f"MCP server {name!r} answered with status {self._status}. Look at its 'headers' and 'bearer_env' in "
                "agents.toml, and at the variables that they name"
            )
        told = f"status {self._status}" if self._status else self._reason(error)
        hint = "; the worker's log has what it wrote to stderr" if self._server.command else ""
        return RetryableStepError(f"MCP server {name!r} cannot be reached: {told}{hint}")

    def _reason(self, error: BaseException) -> str:
        """What an error says; a server may quote what it was given."""
        return cut(without_secrets(_reason(error), self._server.variables), REASON_CHARACTERS)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Client]:
        from mcp import Client

        transport = self._program() if self._server.command is not None else self._http()
        async with Client(_Watched(transport, self.leave)) as client:
            yield client

    @asynccontextmanager
    async def _program(self) -> AsyncIterator[TransportStreams]:
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        command = self._server.command or ()
        folder = (self._workspace or Path.cwd()) / (self._server.cwd or ".")
        if not folder.is_dir():
            raise StepFailed(
                f"MCP server {self._server.name!r} runs in {str(folder)!r}, and there is no such folder. Make it, or "
                "name another by 'cwd' in agents.toml"
            )
        parameters = StdioServerParameters(
            command=command[0], args=list(command[1:]), env=self._server.environment(), cwd=folder
        )
        async with AsyncExitStack() as stack:
            reading, writing = os.pipe()
            stderr = os.fdopen(writing, "w")
            try:
                loop = asyncio.get_running_loop()
                heard, _ = await loop.connect_read_pipe(
                    lambda: _Stderr(self._log, self._server.variables), os.fdopen(reading, "rb")
                )
                stack.callback(heard.close)
                streams = await stack.enter_async_context(stdio_client(parameters, stderr))
            finally:
                stderr.close()  # the program has its own
            yield streams

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[TransportStreams]:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # No limit on reading: a tool may work for long, and each call has a limit of its own.
        limits = httpx2.Timeout(CONNECT_SECONDS, read=None)
        async with (
            httpx2.AsyncClient(
                headers=self._server.sent_headers(), timeout=limits, event_hooks={"response": [self._look]}
            ) as http,
            streamable_http_client(self._server.url or "", http_client=http) as streams,
        ):
            yield streams

    async def _look(self, response: httpx2.Response) -> None:
        """Keep what the library does not tell."""
        if response.is_error:
            self._status = response.status_code


def _load() -> None:
    for module in ("mcp", "mcp.client.stdio", "mcp.client.streamable_http", "httpx2"):
        importlib.import_module(module)


def _reason(error: BaseException) -> str:
    """What an error says, or the first of a group. Texts of an HTTP client may quote the address: its type must do."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if type(error).__module__.startswith(("httpx2", "httpcore2")):
        return type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _Watched:
    """A transport that tells when the server has ended its side; the library tells only whoever calls next."""

    def __init__(self, transport: Any, ended: Callable[[], None]) -> None:
        self._transport = transport
        self._ended = ended

    async def __aenter__(self) -> TransportStreams:
        reading, writing = await self._transport.__aenter__()
        return _Reading(reading, self._ended), writing

    async def __aexit__(self, *reason: Any) -> bool | None:
        done: bool | None = await self._transport.__aexit__(*reason)
        return done


class _Reading:
    """What a server says, and that it has stopped."""

    def __init__(self, stream: ReadStream[Any], ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # the library asks some kinds of streams for more

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> Any:
        try:
            said = await self._stream.__anext__()
        except BaseException:
            self._ended()
            raise
        return self._heard(said)

    async def receive(self) -> Any:
        return self._heard(await self._stream.receive())

    def _heard(self, said: Any) -> Any:
        """What was said; an answer that cannot be read ends the connection, for its call would wait until its limit."""
        if isinstance(said, ValidationError) and _is_message(said):
            self._ended()
        return said

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> _Reading:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> bool | None:
        return await self._stream.__aexit__(*reason)


def _is_message(fault: ValidationError) -> bool:
    """Whether what could not be read was meant for us; other lines are the chatter of a program on its stdout."""
    given = [one["input"] for one in fault.errors(include_url=False, include_context=False)]
    return any(
        '"jsonrpc"' in each and '"id"' in each
        if isinstance(each, str)
        else isinstance(each, dict) and {"jsonrpc", "id"} <= each.keys()
        for each in given
    )


class _Stderr(asyncio.Protocol):
    """Writes the lines of a server's stderr to the worker's log."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, variables: Collection[str]) -> None:
        self._log = log
        self._variables = variables
        self._line = bytearray()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with what the server wrote."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._say(bytes(self._line) + line)
            self._line.clear()
        self._line += rest[: LINE_CHARACTERS + 1]
        del self._line[4 * LINE_CHARACTERS :]  # a line without an end must not fill the memory

    def eof_received(self) -> None:
        """Called by asyncio when the server, and all that it started, has closed it."""
        self._say(bytes(self._line))
        self._line.clear()

    def _say(self, line: bytes) -> None:
        text = without_secrets(line.decode(errors="replace").rstrip(), self._variables)
        if text:
            self._log.info("An MCP server wrote to stderr.", text=cut(text, LINE_CHARACTERS))
