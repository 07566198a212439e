"""The scripted provider: HTTP on loopback, over asyncio alone, so that it can break every rule that a script wants.

Law: a request is in the ledger before it is looked at, and its end is there whatever became of the client.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.provider.completions import Completion, fault_of, token_limit
from tests.provider.ledger import End, Ledger
from tests.provider.replies import WRONG_KEY, Answer, Cut, Hang, Refusal, Reply, Rubbish
from tests.provider.scripts import Request, Script, digest

MODELS = ("scripted", "scripted-2")
"""What /v1/models lists. Any other name is answered too."""

HEAD_BYTES = 64 * 1024
# What asyncio holds of a line, and more than any client sends as headers.


class _Left(Exception):
    """The client hung up."""


@dataclass(frozen=True)
class _Asked:
    """One HTTP request."""

    method: str
    label: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Provider:
    """A server that speaks the OpenAI chat completions API, after a script. Made by `serve`."""

    def __init__(self, script: Script, ledger: Ledger) -> None:
        self.script = script
        """May be exchanged while it serves."""
        self.ledger = ledger
        self.requests: list[Request] = []
        """Every completion request of this process, as it came."""
        self.headers: list[Mapping[str, str]] = []
        """Their headers, names in lower case."""
        self.port = 0
        self.key: str | None = None
        """The only key that /v1/models is told for; None takes any."""
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def serve(cls, script: Script, *, port: int = 0, ledger: Path | None = None) -> AsyncIterator[Provider]:
        """A provider on loopback, on any free port or the given one, with its ledger in memory or in a file."""
        provider = cls(script, Ledger(ledger))
        server = await asyncio.start_server(provider._connected, "127.0.0.1", port, limit=HEAD_BYTES)
        provider.port = server.sockets[0].getsockname()[1]
        try:
            yield provider
        finally:
            server.close()
            for connection in provider._connections:
                connection.cancel()
            await asyncio.gather(*provider._connections, return_exceptions=True)
            provider.ledger.close()

    def url(self, label: str = "") -> str:
        """The base URL for a client; the ledger knows its calls by the label."""
        return f"http://127.0.0.1:{self.port}/{label}/v1" if label else f"http://127.0.0.1:{self.port}/v1"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        if connection is not None:
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)
        try:
            while asked := await _read(reader):
                await self._answer(asked, reader, writer)
        except (_Left, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # nobody reads; a cancelled one is ended without a word too
        finally:
            writer.close()

    async def _answer(self, asked: _Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match asked.method, asked.path:
            case "GET", "/v1/models" if self.key not in (None, asked.key):
                await _refuse(writer, WRONG_KEY, asked.key)
            case "GET", "/v1/models":
                listed = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in MODELS]
                await _send(writer, 200, json.dumps({"object": "list", "data": listed}).encode())
            case "POST", "/v1/chat/completions":
                await self._complete(asked, reader, writer)
            case _:
                refusal = Refusal(404, f"Unknown request URL: {asked.method} {asked.path}.", code="unknown_url")
                await _refuse(writer, refusal, asked.key)

    async def _complete(self, asked: _Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _json(asked.body)
        fault = Refusal(400, "The body is not JSON.") if request is None else fault_of(request)
        known = {} if fault or request is None else request
        number = self.ledger.begin(
            label=asked.label,
            model=str(known.get("model", "")),
            digest=digest(known.get("messages")),
            messages=len(known.get("messages", ())),
            is_stream=bool(known.get("stream")),
            max_tokens=token_limit(known),
        )
        self.requests.append(known)
        self.headers.append(asked.headers)
        end: End = "left"
        reply = fault or self.script(known, number)
        try:
            end = await _Course(self.ledger, number, known, reader, writer).take(reply, asked.key)
        except ConnectionError:
            raise _Left from None
        finally:
            self.ledger.end(number, end, _status(reply))


def _status(reply: Reply) -> int:
    return reply.status if isinstance(reply, Refusal) else 200


@dataclass
class _Course:
    """What happens to one completion request."""

    ledger: Ledger
    number: int
    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def take(self, reply: Reply, key: str) -> End:
        """Do what the script says. Raises `_Left` where the client hangs up meanwhile."""
        match reply:
            case Answer():
                await self._answer(reply)
                return "answered"
            case Refusal():
                await _refuse(self.writer, reply, key)
                return "refused"
            case Rubbish():
                await _send(self.writer, 200, reply.body, {"Content-Type": reply.content_type})
                return "broken"
            case Cut():
                await self._answer_half(reply.answer)
                self.writer.transport.abort()
                return "broken"
            case Hang():
                if reply.midway is not None:
                    await self._answer_half(reply.midway)
                await self._client_left()
                raise _Left

    async def _answer(self, answer: Answer) -> None:
        completion = self._billed(answer)
        await self._pause(answer.delay_seconds)
        if not self.request.get("stream"):
            await _send(self.writer, 200, completion.body())
            return
        await _begin_stream(self.writer)
        for event in completion.events():
            await _send_chunk(self.writer, event)
            await self._pause(answer.pause_seconds)
        await _send_chunk(self.writer, b"")

    async def _answer_half(self, answer: Answer) -> None:
        completion = self._billed(answer)
        await self._pause(answer.delay_seconds)
        if self.request.get("stream"):
            events = list(completion.events())
            await _begin_stream(self.writer)
            for event in events[: len(events) // 2]:
                await _send_chunk(self.writer, event)
            return
        body = completion.body()
        self.writer.write(_head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}))
        self.writer.write(body[: len(body) // 2])
        await self.writer.drain()

    def _billed(self, answer: Answer) -> Completion:
        completion = Completion.of(answer, self.request)
        self.ledger.bill(self.number, completion.tokens)
        return completion

    async def _pause(self, seconds: float) -> None:
        if seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._client_left()
                    raise _Left

    async def _client_left(self) -> None:
        """Wait until the client has hung up; it sends nothing before it has its answer."""
        if await self.reader.read(1):
            raise ConnectionError("The client sent a request before it had its answer.")


async def _read(reader: asyncio.StreamReader) -> _Asked | None:
    """The next request of a connection; None where the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = first.split(" ")
    path = target.partition("?")[0]
    before, _, after = path.partition("/v1/")
    return _Asked(method, before.strip("/"), f"/v1/{after}", headers, body)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _phrase(status: int) -> str:
    """What stands behind the number; nothing for those that providers have made up, as 529."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    all_headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    writer.write(_head(status, all_headers) + body)
    await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, refusal: Refusal, key: str) -> None:
    message = refusal.message.replace("{key}", key)
    error = {"message": message, "type": refusal.kind, "param": None, "code": refusal.code}
    await _send(writer, refusal.status, json.dumps({"error": error}).encode(), refusal.headers)


async def _begin_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
    await writer.drain()


async def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One chunk; an empty one ends the body."""
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
