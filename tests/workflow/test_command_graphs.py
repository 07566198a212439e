"""Stage graphs and approvals through the command, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import COMMAND_SECONDS, SERVED, Perdure, Place, Ran, command_process, terminate, until

SHIP = """
id: ship
name: Ship it
start: plan
stages:
  - id: plan
    step: {type: pattern, pattern: swarm_parallel, task: "plan {{what}}", agents: [{name: echo}, {name: brief}]}
    compensation:
      type: proposal
      proposal: {actions: [{type: state_write, parameters: {key: plan, value: withdrawn}}]}
  - id: review
    step:
      type: approval
      prompt: "Ship {{what}}?"
      output_key: verdict
      fields:
        - {name: decision, label: Your decision, options: ["yes", "no"], required: true}
        - {name: note}
  - id: check
    step:
      type: proposal
      proposal: {actions: [{type: assertion, preconditions: [{key: verdict.decision, value: "yes"}]}]}
edges:
  - {from: plan, to: review}
  - {from: review, to: check}
"""

PLAIN = """
id: plain
name: Plain
start: ask
stages: [{id: ask, step: {type: approval, prompt: Well?, output_key: well}}]
"""

SECOND = {
    "id": "second",
    "name": "Second",
    "start": "again",
    "stages": [
        {
            "id": "again",
            "step": {
                "type": "pattern",
                "pattern": "swarm_parallel",
                "task": "again: {{stage.only.answer}}",
                "agents": [{"name": "echo"}],
            },
        }
    ],
}
FIRST = {
    "id": "first",
    "name": "First",
    "start": "only",
    "stages": [
        {
            "id": "only",
            "step": {
                "type": "pattern",
                "pattern": "swarm_parallel",
                "task": "think of {{what}}",
                "agents": [{"name": "echo"}],
            },
        }
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _graphs(place: Place) -> None:
    """The graphs of this module, where its commands run."""
    (place.folder / "ship.yaml").write_text(SHIP)
    (place.folder / "plain.yml").write_text(PLAIN)
    (place.folder / "first.json").write_text(json.dumps(FIRST))
    (place.folder / "second.json").write_text(json.dumps(SECOND))


def _started(remote: Perdure, name: str, file: str, *options: str) -> None:
    ran = remote("run", file, "--id", name, "--detach", *options)
    assert (ran.code, ran.out) == (0, f"{name}\n"), ran.err


def _waiting(remote: Perdure, name: str) -> list[dict[str, Any]]:
    """What waits in a run, as soon as something does."""

    def listed() -> list[dict[str, Any]]:
        ran = remote("approvals", name, "--json")
        return list(ran.value) if ran.code == 0 else []

    return until(listed)


def _ended(remote: Perdure, name: str) -> Ran:
    return remote("result", name, "--wait", "--json")


def _remotely(place: Place) -> dict[str, str]:
    """What a process of the command needs to know of the service."""
    return {"TEMPORAL_ADDRESS": place.address, "PERDURE_TASK_QUEUE": SERVED}


def test_graph_runs_to_its_report(remote: Perdure) -> None:
    """A graph runs with the state that was given, and its end tells each stage; `result` has both."""
    ran = remote("run", "first.json", "--id", "first", "--state", '{"what": "it"}')
    assert (ran.code, ran.err) == (0, "Run 'first' has started.\n")
    report = ran.out.splitlines()[-3:]
    assert report[0].startswith("✓ graph 'first' completed, ")
    assert report[1].startswith("  ✓ stage 'only' succeeded, ")
    assert report[1].endswith(": [echo] think of it")
    assert report[2].startswith("Run 'first' completed after ")
    result = remote("result", "first")
    assert (result.code, result.err.splitlines()) == (0, report)
    assert result.value["final_state"]["what"] == "it"
    assert remote("show", "first").out.splitlines()[-3:] == report


def test_files_run_as_a_chain(remote: Perdure) -> None:
    """Several files run one after the other, each on the state that the one before it left."""
    ran = remote("run", "first.json", "second.json", "--state", '{"what": "it"}', "--json")
    assert (ran.code, ran.err, ran.value["type"]) == (0, "", "Chain")
    assert [(graph["workflow_id"], graph["status"]) for graph in ran.value["result"]] == [
        ("first", "completed"),
        ("second", "completed"),
    ]
    assert ran.value["result"][1]["stages"][0]["output"]["final_answer"] == "[echo]\nagain: [echo]\nthink of it"


def test_graph_that_is_doubtful_is_not_started(remote: Perdure) -> None:
    """A doubt ends the command with 2 before anything is started; --lenient starts, and the run itself fails."""
    refused = remote("run", "first.json", "--id", "doubtful")
    doubt = "first.json:1:142: doubt: stage 'only': '{{what}}' has no value: nothing in this graph produces 'what'.\n"
    assert refused == Ran(
        2, "", f"{doubt}first.json: 1 doubt; nothing was started. --lenient starts it all the same.\n"
    )
    assert remote("show", "doubtful").code == 2
    ran = remote("run", "first.json", "--id", "doubtful", "--lenient", "--json")
    assert (ran.code, ran.err, ran.value["failure"]) == (
        1,
        doubt,
        {"type": "failed", "message": "only: '{{what}}' has no value: the state has no key 'what'"},
    )
    assert ran.value["result"]["status"] == "failed"


def test_graph_is_checked_against_the_agents_that_local_serves(perdure: Perdure) -> None:
    """With --local it is known who serves, so an agent that nobody has is told before the start."""
    refused = perdure("run", "first.json", "--local", "--agents", "agents.toml", "--state", '{"what": 1}')
    assert refused.code == 0, refused.err
    Path("none.toml").write_text('[agents.other]\nexecutor = "echo"\n')
    refused = perdure("run", "first.json", "--local", "--agents", "none.toml", "--state", '{"what": 1}')
    assert refused.code == 2
    assert "doubt: stage 'only': agent 'echo'" in refused.err


def test_approval_is_listed_and_answered(remote: Perdure) -> None:
    """What waits is listed with the command that answers it; a refused answer leaves it waiting."""
    _started(remote, "ship", "ship.yaml", "--state", '{"what": "it"}')
    (asked,) = _waiting(remote, "ship")
    assert (asked["run"], asked["id"], asked["prompt"]) == ("ship", "1.review", "Ship it?")

    listed = remote("approvals").out.splitlines()
    assert listed[0].startswith("ship  1.review  stage 'review', asked ")
    assert listed[1:] == [
        "  Ship it?",
        "  decision: Your decision (required, one of 'yes', 'no')",
        "  note (optional)",
        "  perdure approve ship 1.review",
    ]
    assert remote("show", "ship").out.splitlines()[-4:] == [
        "… stage 'review' waits for an answer: Ship it?",
        "  decision: Your decision (required, one of 'yes', 'no')",
        "  note (optional)",
        "  perdure approve ship 1.review",
    ]

    assert remote("approve", "ship") == Ran(
        2,
        "",
        "Approval '1.review' of run 'ship' takes these fields:\n"
        "  decision: Your decision (required, one of 'yes', 'no')\n"
        "  note (optional)\n"
        "Give each with --field NAME=VALUE, or all with --response JSON.\n",
    )
    assert remote("approve", "ship", "--field", "note=hm") == Ran(
        2, "", "The answer was refused: field 'decision' is required and has no value.\n"
    )
    assert remote("approve", "ship", "nope") == Ran(
        2, "", "Run 'ship' waits for no approval 'nope'. It waits for '1.review'.\n"
    )
    answered = remote("approve", "ship", "review", "--field", "decision=yes", "--by", "ann", "--json")
    assert (answered.code, answered.value) == (
        0,
        {"run": "ship", "id": "1.review", "response": {"decision": "yes"}, "answered_by": "ann"},
    )
    ended = _ended(remote, "ship")
    assert (ended.code, ended.value["result"]["status"]) == (0, "completed")
    assert remote("approve", "ship", "review", "--field", "decision=no") == Ran(
        2,
        "",
        "Approval '1.review' of run 'ship' was answered already by 'ann'. The first answer counts. "
        "Run 'ship' has ended (completed).\n",
    )
    assert remote("approve", "ship") == Ran(2, "", "Run 'ship' has ended (completed), and nothing waits in it.\n")
    assert remote("approvals") == Ran(0, "", "Nothing waits for an answer.\n")


def test_denied_graph_tells_what_was_undone(remote: Perdure) -> None:
    """--deny answers the field that decides; the run that fails then is told with its compensation, and exits 1."""
    _started(remote, "denied", "ship.yaml", "--state", '{"what": "it"}')
    _waiting(remote, "denied")
    denied = remote("approve", "denied", "--deny", "--by", "bob")
    assert (denied.code, denied.out, denied.err) == (
        0,
        "Approval '1.review' of run 'denied' was answered by 'bob': {\"decision\": \"no\"}\n",
        "",
    )
    watched = remote("watch", "denied")
    assert watched.code == 1
    report = [line.partition(",")[0] for line in watched.out.splitlines()[-6:-1]]
    assert report == [
        "✗ graph 'ship' compensated",
        "  ✓ stage 'plan' succeeded",
        "  ✓ stage 'review' succeeded",
        "  ✗ stage 'check' failed",
        "  ✓ stage 'plan' undone",
    ]
    result = remote("result", "denied")
    assert (result.code, result.value["status"]) == (1, "compensated")
    assert result.err.splitlines() == watched.out.splitlines()[-6:]


def _states(remote: Perdure, name: str) -> tuple[list[str], dict[str, str], list[list[str]]]:
    """What `perdure graph --run` tells: the status of each graph, and the first one's states and ways taken."""
    drawn = remote("graph", "--run", name, "--json")
    assert (drawn.code, drawn.err) == (0, ""), drawn
    graphs = drawn.value["graphs"]
    states = {stage["id"]: stage["state"] for stage in graphs[0]["stages"]}
    return [graph["status"] for graph in graphs], states, graphs[0]["taken"]


def test_run_is_drawn_as_it_stands(remote: Perdure) -> None:
    """The picture of a run that waits, and of the same run when it has failed and was compensated."""
    _started(remote, "drawn", "ship.yaml", "--state", '{"what": "it"}')
    _waiting(remote, "drawn")
    way = [["plan", "review"]]
    assert _states(remote, "drawn") == (
        ["running"],
        {"plan": "succeeded", "review": "waiting", "check": "not_reached"},
        way,
    )
    drawn = remote("graph", "--run", "drawn")
    assert (drawn.code, drawn.err) == (0, "")
    assert '    s1{{"review<br/>approval<br/>… waits for a person"}}:::waiting' in drawn.out.splitlines()
    assert '    subgraph legend["Run drawn: running"]' in drawn.out.splitlines()

    remote("approve", "drawn", "--deny")
    _ended(remote, "drawn")
    assert _states(remote, "drawn") == (
        ["compensated"],
        {"plan": "compensated", "review": "succeeded", "check": "failed"},
        [*way, ["review", "check"]],
    )


def test_cancelled_and_terminated_runs_are_drawn(remote: Perdure, place: Place) -> None:
    """A run that was cancelled reports what it undid; of one that was terminated the events tell."""
    for name in ("stopped", "killed"):
        _started(remote, name, "ship.yaml", "--state", '{"what": "it"}')
        _waiting(remote, name)
    assert remote("cancel", "stopped").code == 0
    states = {"plan": "compensated", "review": "failed", "check": "not_reached"}
    assert _states(remote, "stopped") == (["compensated"], states, [["plan", "review"]])
    asyncio.run(terminate(place.address, "killed"))
    states = {"plan": "succeeded", "review": "cut_off", "check": "not_reached"}
    assert _states(remote, "killed") == (["cut off"], states, [["plan", "review"]])
    captions = [
        remote("graph", "--run", name).out.partition("legend[")[2].partition("]")[0] for name in ("stopped", "killed")
    ]
    assert captions == ['"Run stopped: cancelled, compensated"', '"Run killed: terminated, cut off"']


def test_chain_is_drawn_with_the_graph_it_is_at(remote: Perdure) -> None:
    """Every graph of a chain has a frame; the one that waits is running, the one after it is not begun."""
    started = remote(
        "run", "first.json", "plain.yml", "second.json", "--state", '{"what": 1}', "--id", "links", "--detach"
    )
    assert started.code == 0, started.err
    _waiting(remote, "links")
    assert _states(remote, "links") == (["completed", "running", "not begun"], {"only": "succeeded"}, [])
    drawn = remote("graph", "--run", "links").out.splitlines()
    assert '    subgraph legend["Run links, graph 2 of 3: running"]' in drawn
    remote("approve", "links")
    _ended(remote, "links")
    assert _states(remote, "links")[0] == ["completed"] * 3


def test_run_without_a_graph_is_not_drawn(remote: Perdure) -> None:
    """A run of another type is told by its type, with the command that shows it."""
    remote("run", "Steps", "[]", "--id", "phases", "--json")
    assert remote("graph", "--run", "phases") == Ran(
        2,
        "",
        "Run 'phases' is of the type 'Steps', and only runs of StageGraph and Chain have a graph to draw. "
        "See it with `perdure show phases`.\n",
    )


def test_question_is_told_while_the_run_is_waited_for(remote: Perdure, place: Place) -> None:
    """`run --json` keeps stdout for its one document, and tells each question once on stderr, with its answer."""
    command = ["run", "ship.yaml", "--state", '{"what": "it"}', "--id", "told", "--json"]
    with command_process(place, *command, env=_remotely(place)) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(6)]
        assert remote("approve", "told", "--field", "decision=yes").code == 0
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert lines[0] == "A person must answer:\n"
    assert lines[1].startswith("told  1.review  stage 'review', asked ")
    assert lines[2:] == [
        "  Ship it?\n",
        "  decision: Your decision (required, one of 'yes', 'no')\n",
        "  note (optional)\n",
        "  perdure approve told 1.review\n",
    ]
    assert (process.returncode, err, json.loads(out)["status"]) == (0, "", "completed")


def test_approval_without_fields_is_answered_by_the_command_alone(remote: Perdure) -> None:
    """Where nothing is to be filled in, `perdure approve` says yes."""
    _started(remote, "plain", "plain.yml")
    _waiting(remote, "plain")
    assert remote("approve", "plain", "--by", "ann").out == (
        "Approval '0.ask' of run 'plain' was answered by 'ann': {\"approved\": true}\n"
    )
    assert _ended(remote, "plain").value["result"]["final_state"]["well.approved"] is True


def test_approval_without_a_worker_says_so(perdure: Perdure, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer needs a worker: without one the command says so soon, and --local brings one that starts no step."""
    monkeypatch.setenv("PERDURE_TASK_QUEUE", "graphs-alone")
    monkeypatch.setenv("TEMPORAL_ADDRESS", place.address)
    _started(perdure, "alone", "plain.yml")
    silent = Ran(1, "", "no worker is polling task queue 'graphs-alone'\n")
    assert (perdure("approve", "alone"), perdure("approvals", "alone"), perdure("approvals")) == (silent,) * 3
    monkeypatch.delenv("TEMPORAL_ADDRESS")
    _waiting(lambda *arguments: perdure(*arguments, "--local"), "alone")
    answered = perdure("approve", "alone", "--local", "--by", "ann")
    assert (answered.code, answered.out) == (
        0,
        "Approval '0.ask' of run 'alone' was answered by 'ann': {\"approved\": true}\n",
    )


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_person_at_a_terminal_is_asked(remote: Perdure, place: Place, terminal: tuple[int, int]) -> None:
    """On a terminal the fields are asked for one after the other, until each has a value that it takes."""
    _started(remote, "asked", "ship.yaml", "--state", '{"what": "it"}')
    _waiting(remote, "asked")
    ours, theirs = terminal
    command = ["approve", "asked", "--by", "ann", "--json"]
    process = command_process(place, *command, env=_remotely(place), stdin=theirs, stderr=theirs)
    seen = ""
    for question, typed in (
        ("Ship it?\r\ndecision: Your decision (required, one of 'yes', 'no'): ", "\n"),
        ("Field 'decision' is required.\r\ndecision: Your decision (required, one of 'yes', 'no'): ", "so\n"),
        ("Field 'decision' is 'so', and takes one of 'yes', 'no'.\r\ndecision: Your decision", "yes\n"),
        ("note (optional): ", "fine\n"),
    ):
        while question not in seen:
            seen += os.read(ours, 65_536).decode()
        os.write(ours, typed.encode())
    out, _ = process.communicate(timeout=COMMAND_SECONDS)
    assert json.loads(out) == {
        "run": "asked",
        "id": "1.review",
        "response": {"decision": "yes", "note": "fine"},
        "answered_by": "ann",
    }
    assert process.returncode == 0
