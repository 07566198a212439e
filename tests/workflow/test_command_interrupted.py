"""The command as a process that somebody stops, or that nobody reads any more: the run goes on, or can."""

from __future__ import annotations

import signal
import subprocess
import time

from tests.commands import (
    COMMAND_SECONDS,
    SERVED,
    Perdure,
    Place,
    Ran,
    command_process,
    phases,
    plan,
)


def _wait_for(process: subprocess.Popen[str], part: str) -> None:
    """Read the command's lines until one holds a text."""
    assert process.stdout is not None
    deadline = time.monotonic() + COMMAND_SECONDS
    while part not in (line := process.stdout.readline()):
        assert line, f"the command ended before it said {part!r}"
        assert time.monotonic() < deadline


def test_interrupted_run_goes_on_at_the_next_local(place: Place, perdure: Perdure) -> None:
    """Ctrl-C leaves the run unfinished and says how it goes on; the next --local ends it, paying nothing twice."""
    process = command_process(place, "run", plan(place, ("a", "patient"), ("b", "echo")), "--local", "--id", "long")
    _wait_for(process, "step 0.0:b ok")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=COMMAND_SECONDS)
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
    process = command_process(place, "run", "greeting:Greet", '"snail"', "--local", "--id", "mine")
    _wait_for(process, "step c0.0:greet (patient)")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=COMMAND_SECONDS)
    assert err.splitlines()[-1] == (
        "Run 'mine' is not lost: it goes on at the next `perdure … --local` in this folder, for example "
        "`perdure watch mine --local --workflows greeting:Greet`."
    )
    refused = (
        "Run 'mine' cannot go on here: its workflow type 'Greet' is not known. Name that workflow's module with "
        "--workflows, or in PERDURE_WORKFLOWS.\n"
    )
    for command in (["watch", "mine"], ["result", "mine", "--wait"], ["cancel", "mine"]):
        assert perdure(*command, "--local") == Ran(2, "", refused)
    for command in (["approvals"], ["approvals", "mine"], ["approve", "mine"]):
        assert perdure(*command, "--local") == Ran(2, "", refused.replace("go on", "be asked"))
    other = perdure("run", "Steps", "[]", "--local")
    assert (other.code, "Traceback" in other.err) == (0, False)
    assert (
        "Run 'mine' (Greet) waits for its workflow. Name that workflow's module with --workflows, or in "
        "PERDURE_WORKFLOWS."
    ) in other.err.splitlines()
    assert perdure("watch", "mine", "--local", "--workflows", "greeting:Greet").code == 0


def test_closed_pipe_is_quiet(place: Place, remote: Perdure) -> None:
    """A reader that has seen enough ends the command with 0 and without a word; the run goes on."""
    steps = phases(("a", "endless"), ("b", "brief"), ("c", "slow"))  # the end of b, or of c, finds the pipe closed
    process = command_process(
        place, "run", "Steps", steps, "--address", place.address, "--task-queue", SERVED, "--id", "piped"
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=COMMAND_SECONDS), err) == (0, "Run 'piped' has started.\n")
    assert remote("cancel", "piped").code == 0
