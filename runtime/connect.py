"""Reaching Temporal where its own conventions say: the TEMPORAL_* variables and temporal.toml.

Law: an answer comes within the timeout, whatever is at the address; and what is wrong is said without quoting the
configuration, which may hold an API key. The SDK loads when `connect` is called.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from temporalio import client
    from temporalio.client import Client
    from temporalio.envconfig import ClientConnectConfig
    from temporalio.runtime import Runtime
    from temporalio.service import RPCError

    from runtime.settings import Settings

DEFAULT_ADDRESS = "localhost:7233"
DEFAULT_NAMESPACE = "default"

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")

CONFIG_FILE_VARIABLE = "TEMPORAL_CONFIG_FILE"

QUOTED_REASON = 300
# The SDK nests its connection errors several layers deep; the first lines tell.


async def connect(
    settings: Settings | None = None,
    *,
    plugins: Sequence[client.Plugin] = (),
    address: str | None = None,
    namespace: str | None = None,
    timeout: timedelta = timedelta(seconds=5),  # noqa: ASYNC109 - part of what the caller may choose
    runtime: Runtime | None = None,
) -> Client:
    """A client whose server has answered and whose namespace exists, with `PerdurePlugin` unless `plugins` has one.

    `address` and `namespace` win over the environment. `runtime` is the SDK's own, for metrics.
    Raises `ServerUnreachable`, or `SettingsRejected` where the configuration is at fault.
    """
    config = _connect_config()
    config["target_host"] = address or config.get("target_host") or DEFAULT_ADDRESS
    config["namespace"] = namespace or config.get("namespace") or DEFAULT_NAMESPACE
    try:
        # One limit over everything: the SDK's own does not cover a server that takes the connection and stays silent.
        return await asyncio.wait_for(
            _connect(config, _with_perdure(settings, plugins), runtime), timeout.total_seconds()
        )
    except TimeoutError:
        raise _unreachable(config["target_host"], f"no answer within {timeout.total_seconds():g} s") from None


def is_local(address: str) -> bool:
    """Whether an address, `host:port`, is on this machine."""
    return address.rpartition(":")[0] in LOCAL_HOSTS


def _with_perdure(settings: Settings | None, plugins: Sequence[client.Plugin]) -> list[client.Plugin]:
    from runtime.plugin import PerdurePlugin

    given = list(plugins)
    if any(isinstance(plugin, PerdurePlugin) for plugin in given):
        return given
    return [PerdurePlugin(settings), *given]


async def _connect(config: ClientConnectConfig, plugins: Sequence[client.Plugin], runtime: Runtime | None) -> Client:
    from temporalio.client import Client
    from temporalio.service import RPCError

    address, namespace = config["target_host"], config["namespace"]
    try:
        connected = await Client.connect(**config, plugins=plugins, runtime=runtime)
    except RuntimeError as error:  # the SDK's only type for a connection that cannot be made
        raise _unreachable(address, str(error)) from None
    except ValueError as error:
        raise _rejected(f"The address {address!r} cannot be used ({error}). Write it as 'host:port'.") from None
    try:
        await _see_namespace(connected, namespace)
    except RPCError as error:
        raise _refused(error, address, namespace) from None
    return connected


async def _see_namespace(connected: Client, namespace: str) -> None:
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

    await connected.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))


def _refused(error: RPCError, address: str, namespace: str) -> Exception:
    """What the operator must mend, by the status that the server answered."""
    from temporalio.service import RPCStatusCode

    if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
        return _rejected(
            f"Temporal at {address!r} has no namespace {namespace!r}. Name another with TEMPORAL_NAMESPACE, "
            f"or create it with `temporal operator namespace create --namespace {namespace}`."
        )
    if error.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
        return _rejected(
            f"Temporal at {address!r} refuses access to the namespace {namespace!r}. "
            "Check TEMPORAL_API_KEY, the TLS certificate, or what they may access."
        )
    return _unreachable(address, error.message)


def _unreachable(address: str, reason: str) -> Exception:
    from workflows.errors import ServerUnreachable

    return ServerUnreachable(
        f"Temporal at {address!r} cannot be reached. Start it with `temporal server start-dev`, "
        "name another with TEMPORAL_ADDRESS, or use --local.",
        reason[:QUOTED_REASON],  # a detail: the sentence is for people, this is for whoever must look closer
    )


def _rejected(message: str) -> Exception:
    from workflows.errors import SettingsRejected

    return SettingsRejected(message)


def _connect_config() -> ClientConnectConfig:
    """What the environment and temporal.toml say. Raises `SettingsRejected` without quoting them."""
    from temporalio.envconfig import ClientConfig

    file = os.environ.get(CONFIG_FILE_VARIABLE)
    if file and not Path(file).is_file():  # the SDK would go on without it, to a server that nobody named
        raise _rejected(f"{CONFIG_FILE_VARIABLE} names {file!r}, and there is no such file.")
    where = f"temporal.toml ({file})" if file else "temporal.toml"
    try:
        return ClientConfig.load_client_connect_config()
    except OSError as error:
        raise _rejected(
            f"{where} or the environment names the file {str(error.filename)!r}, "
            f"which cannot be read ({error.strerror})."
        ) from None
    except (RuntimeError, ValueError) as error:
        raise _rejected(f"{where} or the TEMPORAL_* environment cannot be used: {_without_source(error)}.") from None


def _without_source(error: Exception) -> str:
    """The error's first line: the lines after it quote the file, API key and all."""
    return str(error).split("\n", 1)[0].removeprefix("Configuration loading error: ").rstrip(".")
