"""Tools of an MCP server, over real servers: a program on stdin and stdout, and one over HTTP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from activities.tools.context import ToolContext, ToolFailed
from activities.tools.mcp import McpSource
from activities.tools.servers import McpServer
from activities.tools.source import OfferedTool
from tests.support import wait_until
from workflows.errors import RetryableStepError, StepFailed

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.mcp_server")
ENV = {"PYTHONPATH": str(ROOT)}


def program(**options: Any) -> McpServer:
    return McpServer.model_validate({"name": "workshop", "command": COMMAND, "env": ENV, **options})


def rogue(lines: dict[str, str], **options: Any) -> McpServer:
    """A server that answers each method with a line that is not as it should be."""
    return program(command=(sys.executable, "-m", "tests.rogue_mcp_server", json.dumps(lines)), **options)


@asynccontextmanager
async def opened(server: McpServer, workspace: Path | None = None) -> AsyncIterator[McpSource]:
    source = McpSource(server, workspace=workspace)
    try:
        yield source
    finally:
        await source.close()


@asynccontextmanager
async def http_server(port: int = 0) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A server over HTTP: its address and process."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--port", str(port), stdout=asyncio.subprocess.PIPE, env={**os.environ, **ENV}
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip(), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def tool(source: McpSource, name: str) -> OfferedTool:
    return next(offered for offered in await source.tools() if offered.name == name)


async def call(source: McpSource, name: str, /, *, seconds: float | None = None, **arguments: Any) -> Any:
    context = ToolContext(idempotency_key="key-1", workspace=Path())
    return await (await tool(source, name)).call(arguments, context, seconds)


async def whoami(source: McpSource) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await call(source, "whoami"))
    return answer


async def kill_in_call(source: McpSource, file: Path) -> str:
    """Kill a server in the middle of a call; what the call says."""
    calling = asyncio.create_task(call(source, "wait", file=str(file)))
    os.kill(int(await wait_until("the call has begun", lambda: _written(file))), signal.SIGKILL)
    with pytest.raises(ToolFailed) as failed:
        await calling
    return str(failed.value)


async def _written(file: Path) -> str:
    return file.read_text() if file.exists() else ""  # noqa: ASYNC240 - a few bytes


@pytest.fixture(scope="module")
async def workshop() -> AsyncIterator[McpSource]:
    """One program for the tests that leave it as it is."""
    async with opened(program()) as source:
        yield source


async def test_source_offers_what_the_server_lists(workshop: McpSource) -> None:
    """A tool comes with the server's own description and schema."""
    add = await tool(workshop, "add")
    assert (add.description, add.requires_approval) == ("The sum of two numbers.", False)
    assert add.parameters["required"] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add", {"a": 1, "b": 2}, "3"),
        ("describe", {"name": "ä"}, '{"name":"ä","parts":[1,2]}'),
        ("draw", {}, "a square\n[image of type image/png, left out: only text is passed on]"),
        ("key", {}, "key-1"),
    ],
    ids=["a number", "an object", "text and picture", "the idempotency key"],
)
async def test_call_returns_text(workshop: McpSource, name: str, arguments: dict[str, Any], result: str) -> None:
    """A result is what a model can read, and says what was left out of it."""
    assert await call(workshop, name, **arguments) == result


async def test_call_tells_why_a_tool_failed(workshop: McpSource) -> None:
    """A tool's own error is the text of the failure."""
    with pytest.raises(ToolFailed, match=r"\AError executing tool fail: the kiln is cold\Z"):
        await call(workshop, "fail", text="the kiln is cold")
    with pytest.raises(ToolFailed, match="Field required"):
        await call(workshop, "add", a=1)


async def test_call_refuses_what_no_history_can_hold(workshop: McpSource) -> None:
    """A result over the limit fails, with its size."""
    with pytest.raises(ToolFailed) as failed:
        await call(workshop, "fill", characters=2_500_000)
    assert str(failed.value) == "tool 'fill' returned 2.5 MB and the limit is 1.9 MB. Ask it for less."


async def test_call_ends_at_its_limit(workshop: McpSource, tmp_path: Path) -> None:
    """A call that takes too long fails; the server goes on with others."""
    before = (await whoami(workshop))["pid"]
    with pytest.raises(ToolFailed, match=r"\Atool 'wait' timed out after 300ms\Z"):
        await call(workshop, "wait", seconds=0.3, file=str(tmp_path / "pid"))
    assert (await whoami(workshop))["pid"] == before


async def test_call_ends_when_it_is_cancelled(workshop: McpSource, tmp_path: Path) -> None:
    """Nobody waits for a server that works on for nobody."""
    calling = asyncio.create_task(call(workshop, "wait", file=str(tmp_path / "pid")))
    await wait_until("the call has begun", lambda: _written(tmp_path / "pid"))
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await call(workshop, "add", a=1, b=1) == "2"


async def test_calls_share_one_connection() -> None:
    """However many ask at once, the program is started once; closed, it is gone."""
    async with opened(program()) as source:
        pids = {answer["pid"] for answer in await asyncio.gather(*(whoami(source) for _ in range(10)))}
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)


async def test_entry_chooses_names_and_guards() -> None:
    """Only the tools that the entry allows are offered, under its prefix, and those it guards ask a person."""
    server = program(tools=["add", "draw"], prefix="shop_", requires_approval=["draw"])
    async with opened(server) as source:
        offered = [(one.name, one.requires_approval) for one in await source.tools()]
    assert offered == [("shop_add", False), ("shop_draw", True)]


@pytest.mark.parametrize("key", ["tools", "requires_approval"])
async def test_entry_that_names_no_tool_of_the_server_is_refused(key: str) -> None:
    """A guard with a misspelt name would guard nothing."""
    async with opened(program(**{key: ["ad"]})) as source:
        with pytest.raises(StepFailed) as failed:
            await source.tools()
    assert failed.value.message == (
        f"MCP server 'workshop' has no tool 'ad', which its {key!r} names. It offers: 'add', 'complain', 'describe', "
        "'draw', 'fail', 'fill', 'header', 'key', 'wait', 'whoami'"
    )


async def test_program_gets_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds what its entry names, in its folder, and nothing else of the worker's secrets."""
    monkeypatch.setenv("SHOP_TOKEN", "t-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / "bench").mkdir()
    async with opened(program(env_names=["SHOP_TOKEN"], cwd="bench"), tmp_path) as source:
        found = await whoami(source)
    assert found["folder"] == str(tmp_path / "bench")
    assert found["environment"]["SHOP_TOKEN"] == "t-1"
    assert "OPENAI_API_KEY" not in found["environment"]


async def test_program_that_is_killed_in_a_call_is_started_again(tmp_path: Path) -> None:
    """The call fails with the server's name, and the next one has a new program."""
    async with opened(program()) as source:
        before = (await whoami(source))["pid"]
        assert await kill_in_call(source, tmp_path / "pid") == (
            "MCP server 'workshop' was lost while it ran 'wait'. The call may have had its effect."
        )
        assert (await whoami(source))["pid"] != before


async def test_program_that_is_killed_between_calls_is_not_missed() -> None:
    """No call fails for a server that died while nobody needed it."""
    async with opened(program()) as source:
        add = await tool(source, "add")
        before = (await whoami(source))["pid"]
        os.kill(before, signal.SIGKILL)
        await wait_until("the end is seen", lambda: _is_over(source))
        assert await add.call({"a": 2, "b": 3}, ToolContext("key-2", Path()), None) == "5"
        assert (await whoami(source))["pid"] != before


async def _is_over(source: McpSource) -> bool:
    return source._connection is not None and source._connection.is_over


async def test_stderr_of_a_program_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server complains about stands in the worker's log, under its name, without what it was given."""
    monkeypatch.setenv("SHOP_PASS", "open-sesame")
    with capture_logs() as logs:
        async with opened(program(env_names=["SHOP_PASS"])) as source:
            await call(source, "complain", text="the kiln is cold, and the token is open-sesame")
    said = [(line["server"], line["text"]) for line in logs if line["event"] == "An MCP server wrote to stderr."]
    assert said == [("workshop", "the kiln is cold, and the token is [secret]")]


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"command": ["no-such-program"]},
            StepFailed,
            "MCP server 'workshop' cannot be started: 'no-such-program': No such file or directory",
        ),
        (
            {"env_names": ["NO_SUCH_TOKEN"]},
            StepFailed,
            "MCP server 'workshop' needs the environment variable 'NO_SUCH_TOKEN', and the worker has none. "
            "Set it where the worker starts",
        ),
        (
            {"command": ["false"]},
            RetryableStepError,
            "MCP server 'workshop' cannot be reached: MCPError: Connection closed; "
            "the worker's log has what it wrote to stderr",
        ),
        (
            {"command": None, "url": "http://127.0.0.1:9/mcp?token=secret"},
            RetryableStepError,
            "MCP server 'workshop' cannot be reached: ConnectError",
        ),
    ],
    ids=["no such program", "no such variable", "ends at once", "nobody listens"],
)
async def test_server_that_cannot_be_opened(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    """The failure names the server and what to look at, and says whether it is worth another attempt."""
    server = {"name": "workshop", "command": COMMAND, **options}
    async with opened(McpServer.model_validate({k: v for k, v in server.items() if v is not None})) as source:
        with pytest.raises(kind) as failed:
            await source.tools()
    assert getattr(failed.value, "message", str(failed.value)) == text


REFUSAL = '{"jsonrpc": "2.0", "id": ID, "error": {"code": -1, "message": "Wrong token $SHOP_PASS."}}'


@pytest.mark.parametrize(
    ("lines", "kind", "text"),
    [
        (
            {"tools/list": '{"jsonrpc": "2.0", "id": ID, "result": {"tools": [{"name": "t", "inputSchema": {}}]}}'},
            StepFailed,
            "did not list its tools: it answered what is not of the protocol: tools.0.inputSchema.type: Field required",
        ),
        ({"tools/list": REFUSAL}, RetryableStepError, "did not list its tools: Wrong token [secret]."),
        (
            {"initialize": REFUSAL},
            RetryableStepError,
            "cannot be reached: MCPError: Wrong token [secret].; the worker's log has what it wrote to stderr",
        ),
    ],
    ids=["a tool without a schema", "a list refused", "refused"],
)
async def test_server_whose_tools_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, lines: dict[str, str], kind: type[Exception], text: str
) -> None:
    """What breaks the protocol is final; what a server says never holds a variable that it was given."""
    monkeypatch.setenv("SHOP_PASS", "open-sesame")
    async with opened(rogue(lines, env_names=["SHOP_PASS"])) as source:
        with pytest.raises(kind) as failed:
            await source.tools()
    assert getattr(failed.value, "message", str(failed.value)) == f"MCP server 'workshop' {text}"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (REFUSAL, "MCP server 'workshop' refused the call of 't': Wrong token [secret]."),
        (
            '{"jsonrpc": "2.0", "id": ID, "result": {"isError": true, "content": [{"type": "text", '
            '"text": "$SHOP_PASS is wrong"}]}}',
            "[secret] is wrong",
        ),
        (
            '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "\\ud800"}]}}',
            "MCP server 'workshop' was lost while it ran 't'. The call may have had its effect.",
        ),
        (
            '{"jsonrpc": "2.0", "id": ID, "result": 7}',
            "MCP server 'workshop' was lost while it ran 't'. The call may have had its effect.",
        ),
        (
            '{"jsonrpc": "2.0", "id": ID, "result": {}}',
            "MCP server 'workshop' refused the call of 't': it answered what is not of the protocol: content: Field "
            "required",
        ),
    ],
    ids=["refused", "failed", "half a character", "no result", "empty result"],
)
async def test_call_whose_answer_is_none_ends_at_once(monkeypatch: pytest.MonkeyPatch, line: str, text: str) -> None:
    """A call does not wait until its limit for an answer that was there and could not be read."""
    monkeypatch.setenv("SHOP_PASS", "open-sesame")
    async with opened(rogue({"tools/call": line}, env_names=["SHOP_PASS"])) as source:
        with pytest.raises(ToolFailed) as failed:
            await call(source, "t", seconds=60)
    assert str(failed.value) == text


async def test_chatter_on_stdout_is_passed_over() -> None:
    """A program that logs to its stdout, as JSON or not, is served all the same."""
    chatter = """Hello {\n{"level": "info", "id": 3}\n"""
    line = '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "served"}]}}'
    async with opened(rogue({"tools/call": chatter + line})) as source:
        assert await call(source, "t", seconds=60) == "served"


async def test_tool_without_a_name_has_one_for_models() -> None:
    """A provider would refuse every request that offers a tool without a name."""
    line = '{"jsonrpc": "2.0", "id": ID, "result": {"tools": [{"name": "", "inputSchema": {"type": "object"}}]}}'
    async with opened(rogue({"tools/list": line})) as source:
        assert [offered.name for offered in await source.tools()] == ["_"]


async def test_folder_of_a_program_must_be_there(tmp_path: Path) -> None:
    """A wrong `cwd` is said to be that."""
    async with opened(program(cwd="nowhere"), tmp_path) as source:
        with pytest.raises(StepFailed) as failed:
            await source.tools()
    where = str(tmp_path / "nowhere")
    assert failed.value.message == (
        f"MCP server 'workshop' runs in {where!r}, and there is no such folder. Make it, or name another by 'cwd' in "
        "agents.toml"
    )


async def test_http_server_gets_headers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys stand in variables, and are sent with each request."""
    monkeypatch.setenv("SHOP_TOKEN", "t-1")
    monkeypatch.setenv("SHOP_TENANT", "north")
    async with http_server() as (url, _):
        server = McpServer(name="workshop", url=url, headers={"X-Tenant": "SHOP_TENANT"}, bearer_env="SHOP_TOKEN")
        async with opened(server) as source:
            assert await call(source, "header", name="authorization") == "Bearer t-1"
            assert await call(source, "header", name="x-tenant") == "north"


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def test_http_server_that_refuses_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not taken is final, and is not quoted."""
    monkeypatch.setenv("SHOP_TOKEN", "t-secret")
    async with await asyncio.start_server(_refuse, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
        async with opened(McpServer(name="workshop", url=url, bearer_env="SHOP_TOKEN")) as source:
            with pytest.raises(StepFailed) as failed:
                await source.tools()
    assert failed.value.message == (
        "MCP server 'workshop' answered with status 401. Look at its 'headers' and 'bearer_env' in agents.toml, and at "
        "the variables that they name"
    )


async def test_http_server_that_is_killed_in_a_call_is_found_again(tmp_path: Path) -> None:
    """The call fails with the server's name; without a server so does the next; a new server on its address serves."""
    async with http_server() as (url, _):
        source = McpSource(McpServer(name="workshop", url=url))
        assert await kill_in_call(source, tmp_path / "pid") == (
            "MCP server 'workshop' was lost while it ran 'wait'. The call may have had its effect."
        )
    with pytest.raises(RetryableStepError, match=r"\AMCP server 'workshop' cannot be reached: ConnectError\Z"):
        await source.tools()
    async with http_server(int(url.split(":")[2].removesuffix("/mcp"))):
        assert await call(source, "add", a=1, b=2) == "3"
        await source.close()
