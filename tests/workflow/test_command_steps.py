"""What the command tells of steps while they run, and of agents that ask a person; against a real server."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.local import local_server
from tests.commands import Perdure, Place, Ran, until

AGENTS = """
[agents.busy]
executor = "echo"
turns = 12
delay_seconds = 0.5
tokens = 100
[agents.flaky]
executor = "function"
function = "tests.agents:refused_once"
[agents.slow]
executor = "echo"
turns = 200
delay_seconds = 0.3
[agents.asking]
executor = "function"
function = "tests.agents:asking"
"""


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A folder with agents that take their time, and its server."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "agents.toml").write_text(AGENTS)
    async with local_server(folder / ".perdure") as server:
        yield Place(folder, server.address)


def _start(remote: Perdure, place: Place, name: str, *steps: dict[str, Any]) -> None:
    specs = [{"prompt": "go", **step} for step in steps]
    (place.folder / f"{name}.json").write_text(json.dumps([{"name": "only", "steps": specs}]))
    ran = remote("run", f"{name}.json", "--id", name, "--detach")
    assert (ran.code, ran.out) == (0, f"{name}\n"), ran.err


def _heartbeat(remote: Perdure, name: str) -> dict[str, Any]:
    """What the only step of a run tells."""
    shown = remote("show", name, "--json").value
    steps = shown["progress"]["steps"] if shown["progress"] else []
    found: dict[str, Any] = steps[0].get("heartbeat", {}) if steps else {}
    return found


def test_watched_step_tells_what_it_is_doing(remote: Perdure, place: Place) -> None:
    """`show` and `watch` tell turn and tokens of a step that runs, and the history does not grow by it."""
    _start(remote, place, "busy", {"task_id": "main", "agent": "busy"})
    told = until(lambda: _heartbeat(remote, "busy"))
    assert told.keys() == {"progress", "total_tokens", "attempt"}
    assert told["attempt"] == 1
    assert re.fullmatch(r"turn \d+ of 12", told["progress"])
    assert told["total_tokens"] % 100 == 0 < told["total_tokens"]
    line = remote("show", "busy").out.splitlines()[3]
    assert re.fullmatch(r"  ▶ 0\.0:main \(busy\) running, \d+\.\d s: turn \d+ of 12, \d+(,\d+)? tokens", line)
    length = remote("show", "busy", "--json").value["history_length"]

    watched = remote("watch", "busy").out.splitlines()
    assert [line for line in watched if re.search(r"  ▶ step 0\.0:main: turn \d+ of 12, [\d,]+ tokens$", line)]
    assert length == 5  # its start, a workflow task, and that the step is scheduled


def test_watched_step_tells_programs_what_it_is_doing(remote: Perdure, place: Place) -> None:
    """With --json a line tells the heartbeat beside those of events."""
    _start(remote, place, "again", {"task_id": "main", "agent": "busy"})
    lines = [json.loads(line) for line in remote("watch", "again", "--json").out.splitlines()]
    told = [line for line in lines if "heartbeat" in line]
    assert told
    assert told[0].keys() == {"time", "step", "heartbeat"}
    assert told[0]["step"] == "0.0:main"
    assert told[0]["heartbeat"].keys() == {"progress", "total_tokens", "attempt"}
    assert {line["event"]["type"] for line in lines if line not in told} >= {"step_started", "step_finished"}


def test_step_between_attempts_tells_why(remote: Perdure, place: Place) -> None:
    """A step that is to be tried again tells what it failed with, though it never lived to its first heartbeat."""
    _start(remote, place, "flaky", {"task_id": "main", "agent": "flaky"})
    told = until(lambda: _heartbeat(remote, "flaky"))
    assert told.keys() == {"total_tokens", "attempt", "next_attempt_time", "failure"}
    assert told["failure"] == "the service asks to wait"
    line = remote("show", "flaky").out.splitlines()[3]
    assert re.search(r" tried again in \d+\.\d s, after the service asks to wait$", line)
    remote("cancel", "flaky")


def _asks(remote: Perdure, place: Place, name: str) -> None:
    needs = {"approvals": [{"call_id": "7", "tool": "send", "arguments": {"to": "all"}}]}
    _start(remote, place, name, {"task_id": "main", "agent": "asking", "metadata": needs})
    until(lambda: remote("approvals", name, "--json").value)


def _answered(remote: Perdure, name: str) -> Any:
    """What the agent was told."""
    outcome = remote("result", name, "--wait", "--json").value["result"]["phases"][0]["outcomes"][0]
    return json.loads(outcome["output"])["7"]


def test_tool_call_is_listed_with_what_answers_it(remote: Perdure, place: Place) -> None:
    """The question names the step, the agent, the tool and its arguments, and the commands for yes and no."""
    _asks(remote, place, "listed")
    approve = "perdure approve listed 0.0:main.send-1"
    asked = [
        "  decision (required, one of 'approve', 'deny', 'edit')",
        "  arguments: with `edit`: what the tool is called with (optional, json)",
        "  message: with `deny`: what the agent is told (optional)",
        f"  {approve} --field decision=approve",
        f"  {approve} --deny --message 'why not'",
    ]
    question = "Agent 'asking' asks to call the tool 'send' with {\"to\":\"all\"}"
    listed = remote("approvals", "listed").out.splitlines()
    assert listed[0].startswith("listed  0.0:main.send-1  step '0.0:main', asked ")
    assert listed[1:] == [f"  {question}", *asked]
    assert remote("show", "listed").out.splitlines()[-6:] == [
        f"… step '0.0:main' waits for an answer: {question}",
        *asked,
    ]
    assert remote("approve", "listed", "--deny").code == 0
    events = remote("events", "listed").out
    assert f"… approval '0.0:main.send-1' of step '0.0:main' waits: {question}" in events


@pytest.mark.parametrize(
    ("options", "decision"),
    [
        (["--field", "decision=approve"], {"decision": "approve"}),
        (["--deny"], {"decision": "deny"}),
        (["--deny", "--message", "not on a Friday"], {"decision": "deny", "message": "not on a Friday"}),
        (
            ["--field", "decision=edit", "--field", 'arguments={"to": "bob"}'],
            {"decision": "edit", "arguments": {"to": "bob"}},
        ),
    ],
    ids=["approve", "deny", "deny because", "edit"],
)
def test_tool_call_is_decided(
    remote: Perdure, place: Place, options: list[str], decision: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """A person approves a tool call, denies it, or changes its arguments; the step is named instead of the id too."""
    name = request.node.callspec.id.replace(" ", "-")
    _asks(remote, place, name)
    answered = remote("approve", name, "0.0:main", *options, "--by", "ann")
    assert (answered.code, answered.err) == (0, "")
    told = json.dumps(decision, ensure_ascii=False)
    assert answered.out == f"Approval '0.0:main.send-1' of run '{name}' was answered by 'ann': {told}\n"
    assert _answered(remote, name) == decision


def test_tool_call_is_not_decided_by_what_cannot_be_read(remote: Perdure, place: Place) -> None:
    """A mistake in an answer is told, and the step goes on waiting."""
    _asks(remote, place, "mistaken")
    edit = ("approve", "mistaken", "--field", "decision=edit")
    assert remote(*edit, "--field", "arguments={to: bob}") == Ran(
        2, "", "field 'arguments':1:2: this is no JSON (Expecting property name enclosed in double quotes).\n"
    )
    assert remote(*edit) == Ran(
        2,
        "",
        "The answer was refused: the decision is 'edit' and `arguments` are missing: what is the tool called with?\n",
    )
    assert remote("approve", "mistaken", "--message", "no") == Ran(
        2, "", "The answer was refused: field 'decision' is required and has no value.\n"
    )
    assert remote("approve", "mistaken", "--response", "{}", "--message", "no") == Ran(
        2, "", "--response is the whole answer. Leave --field, --message and --deny out, or --response.\n"
    )
    assert remote("approve", "mistaken", "--field", "decision=approve").code == 0
    assert _answered(remote, "mistaken") == {"decision": "approve"}


def test_question_in_a_child_is_answered_under_its_run(remote: Perdure, place: Place) -> None:
    """A person knows the run; which child carries the step that asks need not concern them."""
    needs = {"approvals": [{"call_id": "7", "tool": "send", "arguments": {"to": "all"}}]}
    others = ({"task_id": f"s{number}", "agent": "slow"} for number in range(1_000))
    _start(remote, place, "large", {"task_id": "main", "agent": "asking", "metadata": needs}, *others)
    [asked] = until(lambda: remote("approvals", "large", "--json").value)
    assert (asked["run"], asked["id"], asked["slice"][:10]) == ("large", "0.0:main.send-1", "large/0.0-")
    [everywhere] = [each for each in remote("approvals", "--json").value if each["run"] == "large"]
    assert everywhere == asked
    shown = remote("show", "large").out.splitlines()
    assert f"  carried by {asked['slice']}: 126 steps" in shown
    assert shown[-1] == "  perdure approve large 0.0:main.send-1 --deny --message 'why not'"
    assert remote("show", asked["slice"]).out.splitlines()[0].endswith("  child of large")
    told = "Approval '0.0:main.send-1' of run 'large' was answered by 'ann': {\"decision\": \"deny\"}\n"
    assert remote("approve", "large", "0.0:main", "--deny", "--by", "ann").out == told
    until(lambda: "approval_resolved" in remote("events", asked["slice"], "--json").out)
    again = "Approval '0.0:main.send-1' of run 'large' was answered already by 'ann'. The first answer counts.\n"
    assert remote("approve", "large", "0.0:main.send-1", "--deny") == Ran(2, "", again)
    assert remote("cancel", "large").code == 0
