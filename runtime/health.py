"""Whether a worker lives and serves, told over HTTP to what runs it: a container runtime, a watchdog.

    GET /healthz    200 while the event loop turns, whatever Temporal does
    GET /readyz     200 while the worker serves and Temporal answers it, else 503

Law: nothing of a run, a setting or a secret is told, so whoever can reach the port may ask.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Literal

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from workflows.errors import SettingsRejected

State = Literal["connecting", "serving", "draining"]

TEMPORAL_SECONDS = timedelta(seconds=2)
# Temporal answers within milliseconds; whoever asks gives up after some seconds, and should hear why.

REQUEST_SECONDS = 5.0
# A connection that asks nothing is closed after this.

MAX_REQUEST_BYTES = 8_192
# A probe sends some hundred.


@dataclass
class Health:
    """What the worker's process is doing."""

    state: State = "connecting"
    client: Client | None = None
    """The worker's own, once it is connected."""

    def serves(self, client: Client) -> None:
        """The worker begins to take work."""
        self.state, self.client = "serving", client

    def drains(self) -> None:
        """The worker takes no new work."""
        self.state = "draining"


@asynccontextmanager
async def answering(address: str | None, health: Health) -> AsyncIterator[None]:
    """Answer on an address, `host:port`, until the end of the block; None answers nowhere.

    Raises `SettingsRejected` where the address cannot be served.
    """
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer(health, reader, writer)

    try:
        server = await asyncio.start_server(answer, host.strip("[]"), int(port), limit=MAX_REQUEST_BYTES)
    except (OSError, OverflowError) as error:  # taken, not ours, unknown; or a port over 65535
        raise SettingsRejected(
            f"PERDURE_HEALTH_ADDRESS is {address!r}, which cannot be served ({_why(error)})."
        ) from None
    try:
        yield
    finally:
        server.close()


def _why(error: OSError | OverflowError) -> str:
    """The system's own words where it has some: asyncio's repeat the address, each version of it in another way."""
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return str(error)


async def _answer(health: Health, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = await reader.readuntil(b"\r\n\r\n")
            status, told = await _told(health, request)
            writer.write(_response(status, told, has_body=not request.startswith(b"HEAD ")))
            await writer.drain()
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return  # whoever connected asks nothing, or has gone: there is nobody to tell
    finally:
        writer.close()


async def _told(health: Health, request: bytes) -> tuple[HTTPStatus, dict[str, str]]:
    method, _, rest = request.decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if path not in ("/healthz", "/readyz"):
        return HTTPStatus.NOT_FOUND, {"error": "The paths are /healthz and /readyz."}
    if method not in ("GET", "HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED, {"error": "The methods are GET and HEAD."}
    if path == "/healthz":
        return HTTPStatus.OK, {"state": health.state}
    if health.state != "serving" or health.client is None:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"state": health.state}
    if not await _temporal_answers(health.client):
        return HTTPStatus.SERVICE_UNAVAILABLE, {"state": health.state, "error": "Temporal does not answer."}
    return HTTPStatus.OK, {"state": health.state}


async def _temporal_answers(client: Client) -> bool:
    try:
        await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=TEMPORAL_SECONDS)
    except RPCError:
        return False
    return True


def _response(status: HTTPStatus, told: dict[str, str], *, has_body: bool) -> bytes:
    body = json.dumps(told).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
