"""Command agents, over real programs."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.registry import CommandAgent, Registry
from workflows.steps import AgentStepSpec, StepCall, StepOutcome, Usage


def _outcome(**fields: Any) -> StepOutcome:
    named = {"task_id": "t", "session_id": "task-run-t", "agent": "c"}
    return StepOutcome.model_validate({"output": "", "success": True, **named, **fields})


def _failed(text: str, **fields: Any) -> StepOutcome:
    return _outcome(output=f"Task failed: {text}", success=False, status="failed", error=text, **fields)


class Program:
    """A command agent written in Python, and the activity environment it runs in."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.environment = ActivityEnvironment()

    async def run(self, *command: str, prompt: str = "p", **settings: Any) -> StepOutcome:
        registry = Registry([CommandAgent(name="c", command=command, **settings)])
        call = StepCall(spec=AgentStepSpec(task_id="t", agent="c", prompt=prompt), key="key-1")
        with ThreadPoolExecutor(1) as threads:
            activities = AgentActivities(registry, None, threads=threads, workspace=self.workspace)
            return await self.environment.run(activities.run_agent_step, call)

    async def python(self, code: str, **settings: Any) -> StepOutcome:
        return await self.run(sys.executable, "-c", code, **settings)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


async def _pid_in(file: Path) -> int:
    """The number that a program writes into a file when it runs."""
    give_up = time.monotonic() + 10
    while not (file.exists() and file.read_text().endswith("\n")):  # noqa: ASYNC240  # tiny
        assert time.monotonic() < give_up, f"{file} was not written"
        await asyncio.sleep(0.02)
    return int(file.read_text())  # noqa: ASYNC240


async def _wait_until_gone(pid: int) -> None:
    give_up = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < give_up, f"process {pid} still runs"
        await asyncio.sleep(0.02)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_command_gets_the_prompt_on_stdin(program: Program) -> None:
    """The prompt goes in, stdout comes out, at any size, and no shell reads anything."""
    prompt = "$(touch x) `ls` é\n" * 20_000
    assert await program.run("cat", prompt=prompt) == _outcome(output=prompt)
    assert list(program.workspace.iterdir()) == []


async def test_command_knows_its_step(program: Program) -> None:
    """The environment names the step, its key and the attempt, and holds the agent's own additions."""
    names = ("PERDURE_TASK_ID", "PERDURE_IDEMPOTENCY_KEY", "PERDURE_ATTEMPT", "X")
    code = f"import os; print(os.getcwd(), *[os.environ[name] for name in {names}])"
    (program.workspace / "sub").mkdir()
    outcome = await program.python(code, env={"X": "y"}, cwd="sub")
    assert outcome == _outcome(output=f"{program.workspace}/sub t key-1 1 y\n")


async def test_command_may_call_perdure(program: Program) -> None:
    """The names that a program finds in its environment are no unknown settings."""
    code = "from runtime.settings import Settings; print(Settings.load().drain_seconds)"
    root = str(Path(__file__).parents[2])
    assert await program.python(code, env={"PYTHONPATH": root, "PERDURE_DRAIN_SECONDS": "7"}) == _outcome(
        output="7.0\n"
    )


async def test_command_does_not_inherit_what_opens_payloads_and_temporal(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's keys stay with the worker, unless the agent's own `env` has them."""
    names = ("PERDURE_CODEC_KEY", "PERDURE_CODEC_KEYS_OLD", "TEMPORAL_API_KEY", "TEMPORAL_TLS_CLIENT_KEY_DATA", "OTHER")
    for name in names:
        monkeypatch.setenv(name, "worker's")
    code = f"import os; print(*[os.environ.get(name) for name in {names}], sep=', ')"
    assert (await program.python(code)).output == "None, None, None, None, worker's\n"
    own = await program.python(code, env={"TEMPORAL_API_KEY": "its own"})
    assert own.output == "None, None, its own, None, worker's\n"


async def test_command_succeeds_in_silence(program: Program) -> None:
    """The exit status decides: a program that writes nothing and exits with 0 has succeeded, reading stdin or not."""
    assert await program.run("true", prompt="x" * 1_000_000) == _outcome(output="")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit('boom')", "exited with status 1; stderr: boom"),
        ("print('E501 at 3'); exit(2)", "exited with status 2; stdout: E501 at 3"),
        ("exit(3)", "exited with status 3, and wrote nothing"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal SIGKILL, and wrote nothing"),
        (
            "import sys; sys.exit('a' * 50_000 + 'end')",
            f"exited with status 1; stderr: (48,503 more before) …{'a' * 1_497}end",
        ),
        ("import sys; sys.stdout.buffer.write(b'ab' + bytes([255]))", "wrote to stdout what is not UTF-8 text: byte 2"),
    ],
    ids=["stderr", "stdout", "silent", "signal", "long", "binary"],
)
async def test_command_tells_how_it_failed(program: Program, code: str, told: str) -> None:
    """A failed step says the exit status and the end of what the program wrote."""
    assert await program.python(code) == _failed(f"{sys.executable!r} {told}")


async def test_command_that_is_not_there_is_named(program: Program) -> None:
    """What cannot be started fails its step, saying which of program and folder is missing."""
    (program.workspace / "plain").write_text("no program")
    plain = str(program.workspace / "plain")
    assert [
        await program.run("no-such-program"),
        await program.run(plain),
        await program.run("true", cwd="gone"),
    ] == [
        _failed("the program 'no-such-program' was not found. Install it, or give its path in agents.toml"),
        _failed(f"the program '{plain}' could not be started: Permission denied"),
        _failed(f"the folder '{program.workspace}/gone' that 'true' is to run in does not exist"),
    ]


async def test_command_may_ask_for_another_attempt(program: Program) -> None:
    """Exit status 75 (EX_TEMPFAIL) is a failure that Temporal retries."""
    with pytest.raises(ApplicationError) as later:
        await program.run("sh", "-c", "echo busy >&2; exit 75")
    assert (later.value.type, later.value.message) == ("RetryableStepError", "'sh' exited with status 75; stderr: busy")
    assert not later.value.non_retryable


async def test_command_output_is_never_cut(program: Program) -> None:
    """A program that writes more than its limit is ended, and its step says so; at the limit it is served."""
    assert (await program.python("print('x' * 99)", max_output_bytes=100)).output == "x" * 99 + "\n"
    began = time.monotonic()
    assert await program.run("yes", max_output_bytes=100_000) == _failed(
        "'yes' wrote more than the 100,000 bytes of max_output_bytes to stdout and was ended. "
        "Raise the limit in agents.toml, or let it write a file and name it"
    )
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"text"', {"output": "text"}),
        (" [1, 2] ", {"output": "[1, 2]"}),
        ('{"a": 1}', {"output": '{"a":1}', "structured": {"a": 1}}),
        (
            '{"output": "o", "extra": 1}',
            {"output": '{"output":"o","extra":1}', "structured": {"output": "o", "extra": 1}},
        ),
        (
            '{"output": "o", "structured": {"a": 1}, "usage": {"input_tokens": 3, "output_tokens": 4}}',
            {"output": "o", "structured": {"a": 1}, "usage": Usage(input_tokens=3, output_tokens=4)},
        ),
        ('{"structured": {"a": 1}}', {"output": '{"a":1}', "structured": {"a": 1}}),
    ],
)
async def test_command_json_says_more_than_text(program: Program, written: str, expected: dict[str, Any]) -> None:
    """One JSON value: nothing but output, structured and usage is an answer, any other object the structured result."""
    assert await program.run("printf", "%s", written, output="json") == _outcome(**expected)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("no json", "'printf' wrote no JSON value to stdout: Expecting value: line 1 column 1 (char 0)"),
        ('{"output": 3}', "'printf' wrote a wrong 'output' in its JSON: input should be a text"),
        (
            '{"usage": {"input_tokens": -1}}',
            "'printf' wrote a wrong 'usage.input_tokens' in its JSON: input should be greater than or equal to 0",
        ),
    ],
)
async def test_command_json_that_is_none_fails(program: Program, written: str, told: str) -> None:
    """Output that is not what was promised fails the step, saying where."""
    assert await program.run("printf", "%s", written, output="json") == _failed(told)


async def test_command_that_fails_still_tells_its_usage(program: Program) -> None:
    """What a program spent counts also when it exits with another status."""
    outcome = await program.run("sh", "-c", 'echo \'{"usage": {"input_tokens": 7}}\'; exit 1', output="json")
    assert (outcome.success, outcome.usage) == (False, Usage(input_tokens=7))


GRANDCHILD = (
    "import subprocess, sys, time; child = subprocess.Popen(['sleep', '300']); "
    "print(child.pid, file=open('pid', 'w'), flush=True)"
)


async def test_command_leaves_no_child_behind(program: Program) -> None:
    """A grandchild that outlives its parent is killed, though it holds stdout open, and the step ends at once."""
    began = time.monotonic()
    assert await program.python(f"{GRANDCHILD}; print('done')") == _outcome(output="done\n")
    assert time.monotonic() - began < 2
    await _wait_until_gone(await _pid_in(program.workspace / "pid"))


@pytest.mark.parametrize("obeys", [True, False], ids=["obeys SIGTERM", "ignores SIGTERM"])
async def test_command_cancelled_ends_with_its_whole_group(program: Program, obeys: bool) -> None:
    """A cancel asks the group with SIGTERM and kills what is left after two seconds, grandchildren included."""
    ignore = "" if obeys else "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    step = asyncio.create_task(program.python(f"{ignore}{GRANDCHILD}; time.sleep(300)"))
    grandchild = await _pid_in(program.workspace / "pid")
    began = time.monotonic()
    program.environment.cancel()
    text = "Task cancelled by caller"
    assert await step == _outcome(output=text, error=text, status="cancelled", success=False)
    took = time.monotonic() - began
    assert took < 5
    assert obeys or took > 1.5  # the two seconds it was given
    await _wait_until_gone(grandchild)


async def test_command_that_obeys_ends_at_once(program: Program) -> None:
    """A cancel does not wait longer than the program needs."""
    step = asyncio.create_task(program.python("import os, time; open('pid', 'w').write('1\\n'); time.sleep(300)"))
    await _pid_in(program.workspace / "pid")
    began = time.monotonic()
    program.environment.cancel()
    assert (await step).status == "cancelled"
    assert time.monotonic() - began < 1


async def test_command_past_its_limit_is_ended(program: Program) -> None:
    """An agent's own timeout ends the program like a cancel, with a status of its own."""
    outcome = await program.run("sleep", "300", timeout_seconds=0.3)
    text = "agent 'c' did not answer within its 0.3 s ('timeout_seconds')"
    assert outcome == _outcome(output=f"Task failed: {text}", error=text, status="timed_out", success=False)


async def test_command_that_leaves_its_group_does_not_hold_the_step(program: Program) -> None:
    """A daemon with a session of its own keeps stdout open; the step ends all the same, within a few seconds."""
    began = time.monotonic()
    code = "import subprocess; p = subprocess.Popen(['sleep', '20'], start_new_session=True); print(p.pid, flush=True)"
    outcome = await program.python(code)
    os.kill(int(outcome.output), 9)
    assert (outcome.success, time.monotonic() - began < 6) == (True, True)
