"""The command against a real server: runs are started, read, steered and ended by it, and mistakes are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.connect import connect
from runtime.plugin import workflow_name
from runtime.recall import recall
from runtime.settings import Settings
from tests.commands import (
    COMMAND_SECONDS,
    LONELY,
    SERVED,
    Perdure,
    Place,
    Ran,
    command_process,
    phases,
    plan,
    terminate,
    types,
    until,
)
from tests.support import wait_until
from workflows import ALL_WORKFLOWS
from workflows.wire import BUDGET_QUERY, EVENTS_QUERY, PROGRESS_QUERY, STEPS_WORKFLOW

KNOWN = ", ".join(sorted(repr(workflow_name(served)) for served in ALL_WORKFLOWS))


def _outcomes(run: dict[str, Any]) -> list[tuple[str, bool, str]]:
    return [
        (outcome["task_id"], outcome["success"], outcome["output"])
        for phase in run["result"]["phases"]
        for outcome in phase["outcomes"]
    ]


def test_run_completes_and_is_read(remote: Perdure, place: Place) -> None:
    """A run completes with 0; `-` and nothing are the latest run; its history is recorded and replays."""
    ran = remote("run", plan(place, ("a", "echo"), ("b", "echo")), "--id", "one", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert _outcomes(ran.value) == [("a", True, "do a"), ("b", True, "do b")]

    shown = remote("show", "--json")
    assert (shown.code, shown.value["id"], shown.value["status"]) == (0, "one", "completed")
    assert (shown.value["progress"]["succeeded"], shown.value["budget"]["consumed_tokens"]) == (2, 0)
    assert shown.value["result"] == ran.value["result"]
    assert remote("result", "-").value == ran.value["result"]

    events = remote("events", "one", "--json").value["events"]
    assert types(events) == ["phase_start", *["step_started"] * 2, *["step_finished"] * 2, "phase_end"]
    assert remote("events", "one", "--after", "4", "--json").value["events"] == events[5:]

    recorded = remote("record", "one")
    assert (recorded.code, recorded.out) == (0, "tests/replay/histories/Steps-one.json\n")
    assert remote("replay") == Ran(0, "Steps-one (Steps): ok\n", "")


def test_failing_step_exits_1(remote: Perdure) -> None:
    """A run of Steps completes although a step failed, and each command that waited says so by its exit code."""
    ran = remote("run", "Steps", phases(("a", "echo"), ("b", "bad")), "--id", "partly")
    assert (ran.code, ran.err) == (1, "Run 'partly' has started.\n")
    assert ran.out.splitlines()[-1].endswith(": 1 step succeeded, 1 failed.")
    watched = remote("watch", "partly", "--json")
    assert (watched.code, types([json.loads(line) for line in watched.out.splitlines()])[-1]) == (1, "phase_end")
    result = remote("result", "partly", "--json")
    assert (result.code, result.value["status"]) == (1, "completed")
    assert _outcomes(result.value) == [("a", True, "do a"), ("b", False, "Task failed: it broke")]


def test_detached_run_is_steered(remote: Perdure, place: Place) -> None:
    """A run that was only started is shown, gets another budget and is cancelled; its report stays."""
    started = remote("run", plan(place, ("a", "endless")), "--id", "later", "--detach")
    assert started == Ran(0, "later\n", "Watch it with `perdure watch later`.\n")
    assert remote("run", "plan.json", "--id", "later", "--address", place.address) == Ran(
        2,
        "",
        f"Run 'later' is running already. Watch it with `perdure watch later --address {place.address}`, "
        "or give the new one another --id.\n",
    )
    until(lambda: remote("show", "later", "--json").value["notice"] is None)  # it begins in a moment
    assert remote("show", "later", "--json").value["status"] == "running"
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


def test_run_that_nobody_serves_says_so(perdure: Perdure, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a worker an open run cannot be read, and a closed one only with its code; each says what helps."""
    monkeypatch.setenv("PERDURE_TASK_QUEUE", LONELY)
    detached = perdure("run", "greeting:Greet", '"you"', "--local", "--id", "it waits", "--detach")
    watching = "`perdure watch 'it waits' --local --workflows greeting:Greet`"
    assert detached == Ran(
        0, "it waits\n", f"It has no worker once this command has ended. {watching} brings one and watches it.\n"
    )
    shown = perdure("show", "it waits", "--local")
    assert (shown.code, shown.err) == (0, "no worker is polling task queue 'lonely'\n")
    assert perdure("budget", "it waits", "--local") == Ran(1, "", "no worker is polling task queue 'lonely'\n")
    asyncio.run(terminate(place.address, "it waits"))
    assert perdure("budget", "it waits", "--local") == Ran(
        1,
        "",
        "Run 'it waits' (Greet) has ended, no worker of task queue 'lonely' answers, and its history cannot be "
        "replayed here: the workflow type 'Greet' is not known. Name its module with --workflows, or start a worker.\n",
    )
    ended = perdure("result", "it waits", "--local", "--json").value
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
    process = command_process(place, "list", "--address", "127.0.0.1:1")
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert (process.returncode, out) == (3, "")
    assert err == (
        "Temporal at '127.0.0.1:1' cannot be reached. Start it with `temporal server start-dev`, name another with "
        "TEMPORAL_ADDRESS, or use --local.\n"
    )


@pytest.mark.usefixtures("serving")
async def test_terminated_run_is_recalled_as_it_was(place: Place) -> None:
    """The history of a terminated run tells what had happened, and nothing that its cleaning up would have added."""
    client = await connect(Settings(), address=place.address)
    definition = json.loads(phases(("a", "endless"), ("b", "echo")))
    handle = await client.start_workflow(STEPS_WORKFLOW, definition, id="gone", task_queue=SERVED)

    async def is_half_done() -> bool:
        progress: dict[str, int] = await handle.query(PROGRESS_QUERY)
        return (progress["succeeded"], progress["running"]) == (1, 1)

    await wait_until("one step has ended", is_half_done)
    await handle.terminate(reason="enough")
    questions: dict[str, list[Any]] = {PROGRESS_QUERY: [], EVENTS_QUERY: [-1], BUDGET_QUERY: []}
    answers = await recall(await handle.fetch_history(), questions, settings=Settings(), workflows=())
    phase = answers[PROGRESS_QUERY]["phases"][0]
    assert (phase["status"], phase["succeeded"], phase["running"]) == ("running", 1, 1)
    assert types(answers[EVENTS_QUERY]["events"]) == ["phase_start", *["step_started"] * 2, "step_finished"]
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
