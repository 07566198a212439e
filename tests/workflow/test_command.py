"""The command against a real server: called here, and in a process of its own where the process is the subject.

The module has one folder with an embedded server, which `--local` joins, and a worker of the task queue `served`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

import starter
from runtime.connect import connect
from runtime.local import local_server
from runtime.plugin import workflow_name
from runtime.recall import recall
from runtime.settings import Settings
from tests.support import wait_until
from worker import build_worker
from workflows import ALL_WORKFLOWS
from workflows.wire import BUDGET_QUERY, EVENTS_QUERY, PROGRESS_QUERY, STEPS_WORKFLOW

STARTER = Path(starter.__file__)
WAIT_SECONDS = 60.0
# Far more than a command takes here; a test that needs it is a test that fails.

SERVED, LONELY = "served", "lonely"
"""Task queues: of the module's worker, and of none."""

KNOWN = ", ".join(sorted(repr(workflow_name(served)) for served in ALL_WORKFLOWS))

AGENTS = """
[agents.echo]
executor = "echo"
[agents.bad]
executor = "echo"
fail = "it broke"
[agents.slow]
executor = "echo"
turns = 10
delay_seconds = 0.3
tokens = 100
[agents.patient]
executor = "echo"
turns = 10
delay_seconds = 0.8
tokens = 100
[agents.endless]
executor = "echo"
turns = 200
delay_seconds = 0.3
[agents.brief]
executor = "echo"
delay_seconds = 0.6
"""

MODULE = """
from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow


@workflow.defn
class Greet(AgentWorkflow):
    @workflow.run
    async def run(self, name: str) -> str:
        agent = "patient" if name == "snail" else "echo"
        outcome = await self.agent(AgentStepSpec(task_id="greet", agent=agent, prompt=f"hello {name}"))
        return outcome.output
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """Where the commands of this module run."""

    folder: Path
    address: str


Perdure = Callable[..., Ran]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A folder with agents and a workflow of its own, and its server."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "agents.toml").write_text(AGENTS)
    (folder / "greeting.py").write_text(MODULE)
    async with local_server(folder / ".perdure") as server:
        yield Place(folder, server.address)


@pytest.fixture(scope="module")
def _served(place: Place) -> Iterator[None]:
    """A worker in a thread of its own, as the commands take the main one with its signals."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        leave = asyncio.Event()
        settings = Settings(task_queue=SERVED, agents=place.folder / "agents.toml", drain_seconds=1)
        async with build_worker(await connect(settings, address=place.address), settings):
            ready.set_result((asyncio.get_running_loop(), leave))
            await leave.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, leave = ready.result(WAIT_SECONDS)
    yield
    loop.call_soon_threadsafe(leave.set)
    thread.join(WAIT_SECONDS)


@pytest.fixture
def perdure(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Perdure]:
    """The command, called in this process; what it sets for its process is put back."""
    for name in (name for name in os.environ if name.startswith(("PERDURE_", "TEMPORAL_"))):
        monkeypatch.delenv(name)
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    root, configured = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: str) -> Ran:
        code = starter.invoke(arguments)
        return Ran(code, *capsys.readouterr())

    yield call
    root.handlers[:], root.level = handlers, level
    structlog.configure(**configured)


@pytest.fixture
def remote(_served: None, perdure: Perdure, place: Place, monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """The command against a service that has a worker."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", place.address)
    monkeypatch.setenv("PERDURE_TASK_QUEUE", SERVED)
    return perdure


def _process(place: Place, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    return subprocess.Popen(
        [sys.executable, str(STARTER), *arguments],
        cwd=place.folder,
        env={**environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _written(*steps: tuple[str, str]) -> str:
    """One phase of (task id, agent) steps, as JSON."""
    specs = [{"task_id": task, "agent": agent, "prompt": f"do {task}"} for task, agent in steps]
    return json.dumps([{"name": "only", "steps": specs}])


def _plan(place: Place, *steps: tuple[str, str]) -> str:
    """The name of a file with one phase."""
    (place.folder / "plan.json").write_text(_written(*steps))
    return "plan.json"


def _outcomes(run: dict[str, Any]) -> list[tuple[str, bool, str]]:
    return [
        (outcome["task_id"], outcome["success"], outcome["output"])
        for phase in run["result"]["phases"]
        for outcome in phase["outcomes"]
    ]


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [envelope["event"]["type"] for envelope in events]


def test_run_completes_and_is_read(remote: Perdure, place: Place) -> None:
    """A run completes with 0; `-` and nothing are the latest run; its history is recorded and replays."""
    ran = remote("run", _plan(place, ("a", "echo"), ("b", "echo")), "--id", "one", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert _outcomes(ran.value) == [("a", True, "do a"), ("b", True, "do b")]

    shown = remote("show", "--json")
    assert (shown.code, shown.value["id"], shown.value["status"]) == (0, "one", "completed")
    assert (shown.value["progress"]["succeeded"], shown.value["budget"]["consumed_tokens"]) == (2, 0)
    assert shown.value["result"] == ran.value["result"]
    assert remote("result", "-").value == ran.value["result"]

    events = remote("events", "one", "--json").value["events"]
    assert _types(events) == ["phase_start", *["step_started"] * 2, *["step_finished"] * 2, "phase_end"]
    assert remote("events", "one", "--after", "4", "--json").value["events"] == events[5:]

    recorded = remote("record", "one")
    assert (recorded.code, recorded.out) == (0, "tests/replay/histories/Steps-one.json\n")
    assert remote("replay") == Ran(0, "Steps-one (Steps): ok\n", "")


def test_failing_step_exits_1(remote: Perdure) -> None:
    """A run of Steps completes although a step failed, and each command that waited says so by its exit code."""
    ran = remote("run", "Steps", _written(("a", "echo"), ("b", "bad")), "--id", "partly")
    assert (ran.code, ran.err) == (1, "Run 'partly' has started.\n")
    assert ran.out.splitlines()[-1].endswith(": 1 step succeeded, 1 failed.")
    watched = remote("watch", "partly", "--json")
    assert (watched.code, _types([json.loads(line) for line in watched.out.splitlines()])[-1]) == (1, "phase_end")
    result = remote("result", "partly", "--json")
    assert (result.code, result.value["status"]) == (1, "completed")
    assert _outcomes(result.value) == [("a", True, "do a"), ("b", False, "Task failed: it broke")]


def test_detached_run_is_steered(remote: Perdure, place: Place) -> None:
    """A run that was only started is shown, gets another budget and is cancelled; its report stays."""
    started = remote("run", _plan(place, ("a", "endless")), "--id", "later", "--detach")
    assert started == Ran(0, "later\n", "Watch it with `perdure watch later`.\n")
    assert remote("run", "plan.json", "--id", "later", "--address", place.address) == Ran(
        2,
        "",
        f"Run 'later' is running already. Watch it with `perdure watch later --address {place.address}`, "
        "or give the new one another --id.\n",
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while (shown := remote("show", "later", "--json").value)["notice"] is not None:  # it begins in a moment
        assert time.monotonic() < deadline, shown
    assert shown["status"] == "running"
    changed = remote("budget", "later", "--set", "5000", "--json").value
    assert (changed["limit_tokens"], changed["limit_usd"]) == (5000, None)
    assert remote("result", "later") == Ran(
        1, "", "Run 'later' is running. Wait for its result with `perdure result later --wait`.\n"
    )
    cancelled = remote("cancel", "later", "--json")
    assert (cancelled.code, cancelled.value["status"]) == (0, "cancelled")
    # Temporal itself has the run as failed, for a run that is Canceled there could not keep its report.
    assert cancelled.value["failure"] == {"type": "cancelled", "message": "the run was cancelled"}
    assert _outcomes(cancelled.value) == [("a", False, "Task cancelled by caller")]
    assert remote("watch", "later").code == 1
    assert remote("cancel", "later") == Ran(2, "", "Run 'later' has ended already (failed).\n")
    assert remote("budget", "later", "--set", "none") == Ran(
        2, "", "Run 'later' has ended (failed); its budget cannot change any more.\n"
    )


def test_own_workflow_is_served_by_local(perdure: Perdure) -> None:
    """MODULE:CLASS is served by --local, takes input and options, and is read when its worker is gone."""
    for _ in range(2):  # an id is free again once its run has ended
        ran = perdure("run", "greeting:Greet", '"you"', "--local", "--id", "greet", "--budget-tokens", "500")
        assert ran.code == 0, ran.err
        assert '"hello you"' in ran.out.splitlines()
    listed = perdure("list", "--local", "--json").value
    assert [(run["id"], run["type"], run["status"]) for run in listed] == [("greet", "Greet", "completed")] * 2
    read = perdure("budget", "greet", "--local", "--workflows", "greeting")
    assert read == Ran(0, "0 of 500 tokens used (0 %)\n", "")


async def _terminate(address: str, workflow_id: str) -> None:
    client = await connect(Settings(), address=address)
    await client.get_workflow_handle(workflow_id).terminate(reason="enough")


def test_run_that_nobody_serves_says_so(perdure: Perdure, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a worker an open run cannot be read, and a closed one only with its code; each says what helps."""
    monkeypatch.setenv("PERDURE_TASK_QUEUE", LONELY)
    perdure("run", "greeting:Greet", '"you"', "--local", "--id", "waits", "--detach")
    shown = perdure("show", "waits", "--local")
    assert (shown.code, shown.err) == (0, "no worker is polling task queue 'lonely'\n")
    assert perdure("budget", "waits", "--local") == Ran(1, "", "no worker is polling task queue 'lonely'\n")
    asyncio.run(_terminate(place.address, "waits"))
    assert perdure("budget", "waits", "--local") == Ran(
        1,
        "",
        "Run 'waits' (Greet) has ended, no worker of task queue 'lonely' answers, and its history cannot be replayed "
        "here: the workflow type 'Greet' is not known. Name its module with --workflows, or start a worker.\n",
    )
    ended = perdure("result", "waits", "--local", "--json").value
    assert (ended["status"], ended["failure"]) == ("terminated", {"type": None, "message": "enough"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "Steps", '[{"name": "x"}]', "--local"], "Steps: '0.steps' is missing.\n"),
        (
            ["run", "Unknown", "--local"],
            f"The workflow type 'Unknown' is not known here. The types are {KNOWN}. "
            "Name your own as MODULE:CLASS, or its module with --workflows.\n",
        ),
        (
            ["run", "Steps", "[]", "--local", "--agents", "no.toml"],
            "--agents is 'no.toml', and there is no such file.\n",
        ),
    ],
    ids=["phases", "type", "agents"],
)
def test_invalid_input_exits_2(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """A mistake is told in a sentence, and nothing is started, not even the server."""
    monkeypatch.chdir(tmp_path)
    assert perdure(*arguments) == Ran(2, "", message)
    assert list(tmp_path.iterdir()) == []


def test_unknown_run_exits_2(remote: Perdure, place: Place) -> None:
    """A run that does not exist is named with the place where it was looked for."""
    missing = (
        f"Run 'nope' was not found in namespace 'default' at {place.address}. "
        "`perdure list` has those that are there.\n"
    )
    assert remote("show", "nope") == Ran(2, "", missing)


def test_absent_server_exits_3(place: Place) -> None:
    """A server that is not there is named with what to do, in one line; the status is the process's own."""
    process = _process(place, "list", "--address", "127.0.0.1:1")
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (3, "")
    assert err == (
        "Temporal at '127.0.0.1:1' cannot be reached. Start it with `temporal server start-dev`, name another with "
        "TEMPORAL_ADDRESS, or use --local.\n"
    )


def _wait_for(process: subprocess.Popen[str], part: str) -> None:
    """Read the command's lines until one holds a text."""
    assert process.stdout is not None
    deadline = time.monotonic() + WAIT_SECONDS
    while part not in (line := process.stdout.readline()):
        assert line, f"the command ended before it said {part!r}"
        assert time.monotonic() < deadline


def test_interrupted_run_goes_on_at_the_next_local(place: Place, perdure: Perdure) -> None:
    """Ctrl-C leaves the run unfinished and says how it goes on; the next --local ends it, paying nothing twice."""
    process = _process(place, "run", _plan(place, ("a", "patient"), ("b", "echo")), "--local", "--id", "long")
    _wait_for(process, "step 0.0:b ok")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "Run 'long' is not lost: it goes on at the next `perdure … --local` in this folder, for example "
        "`perdure watch long --local`."
    )
    resumed = perdure("watch", "--local")
    assert resumed.code == 0, resumed.err
    assert "Run 'long' (Steps) goes on." in resumed.err.splitlines()
    assert resumed.out.splitlines()[-1].endswith("2 steps succeeded, 0 failed.")
    assert perdure("result", "long", "--local").value["budget"]["consumed_tokens"] == 1000


def test_run_of_ones_own_goes_on_where_its_module_is_named(place: Place, perdure: Perdure) -> None:
    """An unfinished run of one's own says what the next --local must name; without that nothing is tried, or lost."""
    process = _process(place, "run", "greeting:Greet", '"snail"', "--local", "--id", "mine")
    _wait_for(process, "step c0.0:greet (patient)")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert err.splitlines()[-1] == (
        "Run 'mine' is not lost: it goes on at the next `perdure … --local` in this folder, for example "
        "`perdure watch mine --local --workflows greeting:Greet`."
    )
    assert perdure("watch", "mine", "--local") == Ran(
        2,
        "",
        "Run 'mine' cannot go on here: its workflow type 'Greet' is not known. Name that workflow's module with "
        "--workflows, or in PERDURE_WORKFLOWS.\n",
    )
    other = perdure("run", "Steps", "[]", "--local")
    assert (other.code, "Traceback" in other.err) == (0, False)
    assert (
        "Run 'mine' (Greet) waits for its workflow. Name that workflow's module with --workflows, or in "
        "PERDURE_WORKFLOWS."
    ) in other.err.splitlines()
    assert perdure("watch", "mine", "--local", "--workflows", "greeting:Greet").code == 0


def test_closed_pipe_is_quiet(place: Place, remote: Perdure) -> None:
    """A reader that has seen enough ends the command with 0 and without a word; the run goes on."""
    steps = _written(("a", "endless"), ("b", "brief"), ("c", "slow"))  # the end of b, or of c, finds the pipe closed
    process = _process(
        place, "run", "Steps", steps, "--address", place.address, "--task-queue", SERVED, "--id", "piped"
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=WAIT_SECONDS), err) == (0, "Run 'piped' has started.\n")
    assert remote("cancel", "piped").code == 0


@pytest.mark.usefixtures("_served")
async def test_terminated_run_is_recalled_as_it_was(place: Place) -> None:
    """The history of a terminated run tells what had happened, and nothing that its cleaning up would have added."""
    client = await connect(Settings(), address=place.address)
    phases = json.loads(_written(("a", "endless"), ("b", "echo")))
    handle = await client.start_workflow(STEPS_WORKFLOW, phases, id="gone", task_queue=SERVED)

    async def is_half_done() -> bool:
        progress: dict[str, int] = await handle.query(PROGRESS_QUERY)
        return (progress["succeeded"], progress["running"]) == (1, 1)

    await wait_until("one step has ended", is_half_done)
    await handle.terminate(reason="enough")
    questions: dict[str, list[Any]] = {PROGRESS_QUERY: [], EVENTS_QUERY: [-1], BUDGET_QUERY: []}
    answers = await recall(await handle.fetch_history(), questions, settings=Settings(), workflows=())
    phase = answers[PROGRESS_QUERY]["phases"][0]
    assert (phase["status"], phase["succeeded"], phase["running"]) == ("running", 1, 1)
    assert _types(answers[EVENTS_QUERY]["events"]) == ["phase_start", *["step_started"] * 2, "step_finished"]
    assert answers[BUDGET_QUERY]["consumed_tokens"] == 0


def test_doctor_names_what_shadows(remote: Perdure, place: Place) -> None:
    """Where all is well every check is ok; something of the user's under one of perdure's import names fails."""
    checked = remote("doctor", "--json")
    assert checked.code == 0, checked.out
    assert [finding["verdict"] for finding in checked.value] == ["ok"] * 10
    other = place.folder / "activities.py"
    other.write_text("")
    shadowed = remote("doctor", "--json")
    other.unlink()
    assert shadowed.code == 1
    assert [finding for finding in shadowed.value if finding["verdict"] == "fail"] == [
        {
            "check": "import names",
            "verdict": "fail",
            "found": f"{str(other)!r} has the name of a part of perdure",
            "remedy": "Rename it or move it: a program sees only one of the two.",
        }
    ]
