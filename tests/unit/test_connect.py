"""Reaching Temporal: what is said when it cannot be reached, and how soon."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from runtime import connect
from runtime.connect import is_local
from runtime.settings import Settings
from workflows.errors import ServerUnreachable, SettingsRejected

QUICK = timedelta(milliseconds=300)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own configuration."""
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_PROFILE", "TEMPORAL_API_KEY", "TEMPORAL_TLS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporal.toml").touch()
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))


def closed_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def silent_address() -> AsyncIterator[str]:
    """Something that takes connections and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def unreachable(address: str) -> str:
    return (
        f"Temporal at {address!r} cannot be reached. Start it with `temporal server start-dev`, "
        "name another with TEMPORAL_ADDRESS, or use --local."
    )


@pytest.mark.parametrize(
    ("address", "local"),
    [("localhost:7233", True), ("127.0.0.1:1", True), ("[::1]:7233", True), ("temporal.example:7233", False)],
)
def test_is_local_tells_this_machine_from_a_service(address: str, local: bool) -> None:
    """A service needs a store that its workers share; a server on this machine does not."""
    assert is_local(address) is local


async def test_connect_says_that_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the environment is the one that is tried and named."""
    address = closed_address()
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    with pytest.raises(ServerUnreachable) as failed:
        await connect(Settings())
    assert failed.value.message == unreachable(address)


async def test_connect_gives_up_on_a_server_that_stays_silent() -> None:
    """The limit holds also where the connection is made and nothing comes."""
    async with silent_address() as address:
        began = time.monotonic()
        with pytest.raises(ServerUnreachable) as failed:
            await connect(Settings(), address=address, timeout=QUICK)
        assert time.monotonic() - began < 2
    assert failed.value.message == unreachable(address)
    assert failed.value.details == ("no answer within 0.3 s",)


async def test_connect_refuses_what_is_no_address() -> None:
    """A text that names no host and port is a wrong setting."""
    with pytest.raises(SettingsRejected) as refused:
        await connect(Settings(), address="my host:x")
    assert refused.value.message == (
        "The address 'my host:x' cannot be used (invalid target URL: invalid international domain name). "
        "Write it as 'host:port'."
    )


async def test_connect_reads_the_profile_of_temporal_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile names the address, as for Temporal's own tools."""
    address = closed_address()
    (tmp_path / "temporal.toml").write_text(f'[profile.night]\naddress = "{address}"\n')
    monkeypatch.setenv("TEMPORAL_PROFILE", "night")
    with pytest.raises(ServerUnreachable) as failed:
        await connect(Settings())
    assert failed.value.message == unreachable(address)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param(
            '[profile.default]\napi_key = sk-live-1"\n',
            "temporal.toml ({file}) or the TEMPORAL_* environment cannot be used: "
            "TOML parse error at line 2, column 11.",
            id="no TOML",
        ),
        pytest.param(
            '[profile.default]\naddress = "a:1"\ntls.server_ca_cert_path = "gone.pem"\n',
            "temporal.toml ({file}) or the environment names the file 'gone.pem', "
            "which cannot be read (No such file or directory).",
            id="certificate is missing",
        ),
    ],
)
async def test_connect_refuses_a_broken_configuration(tmp_path: Path, written: str, message: str) -> None:
    """What is wrong is said by its place; the file, which may hold an API key, is not quoted."""
    file = tmp_path / "temporal.toml"
    file.write_text(written)
    with pytest.raises(SettingsRejected) as refused:
        await connect(Settings())
    assert refused.value.message == message.format(file=file)


async def test_connect_refuses_a_configuration_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A named file that is missing is not the same as none: it would lead to a server that nobody meant."""
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "gone.toml"))
    with pytest.raises(SettingsRejected) as refused:
        await connect(Settings())
    assert refused.value.message == (
        f"TEMPORAL_CONFIG_FILE names {str(tmp_path / 'gone.toml')!r}, and there is no such file."
    )


async def test_connect_refuses_an_unknown_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TEMPORAL_PROFILE must name one that the file has."""
    monkeypatch.setenv("TEMPORAL_PROFILE", "nope")
    with pytest.raises(SettingsRejected) as refused:
        await connect(Settings())
    assert refused.value.message == (
        f"temporal.toml ({tmp_path / 'temporal.toml'}) or the TEMPORAL_* environment cannot be used: "
        "Profile 'nope' not found."
    )


async def test_connect_can_be_cancelled() -> None:
    """Whoever waits for a silent server may leave."""
    async with silent_address() as address:
        connecting = asyncio.create_task(connect(Settings(), address=address))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
