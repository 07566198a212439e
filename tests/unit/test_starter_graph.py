"""Stage graphs on the command line: what is started, what people see, and how an approval is answered."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runtime.commands.answers import given_answer, value_of
from runtime.commands.inputs import read_state
from runtime.commands.options import Fault
from runtime.commands.run import divided
from runtime.commands.targets import Asked, Target, resolve
from runtime.endings import ending_lines
from runtime.questions import answer_command, told_fields, waiting_lines
from runtime.report import View, live_view, progress_lines, run_line
from runtime.standing import Ending, RunInfo, report_of
from runtime.texts import moment
from workflows.approvals import ApprovalRequest
from workflows.errors import InputRejected, PayloadTooLarge
from workflows.graph.definition import ApprovalField
from workflows.graph.step_checks import Served

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
INFO = RunInfo("ship-1", "r1", "StageGraph", "running", "perdure", START, None, 12)
CLOSED = replace(INFO, status="failed", closed=START + timedelta(seconds=3))

WRITE = {"type": "proposal", "proposal": {"actions": [{"type": "state_write", "parameters": {"key": "k", "value": 1}}]}}


def _graph(name: str, text: str = "go", **fields: Any) -> dict[str, Any]:
    task = {"type": "pattern", "pattern": "vote", "task": text, "agents": [{"name": "one"}, {"name": "two"}]}
    return {"id": name, "name": name.title(), "start": "s", "stages": [{"id": "s", "step": task}], **fields}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _file(name: str, value: Any) -> str:
    Path(name).write_text(json.dumps(value))
    return name


def test_file_with_an_object_starts_a_graph() -> None:
    """A graph is started as it is written, whether as JSON or as YAML."""
    Path("ship.yaml").write_text(
        "id: ship\nname: Ship\nstart: s\nstages:\n"
        "  - {id: s, step: {type: pattern, pattern: vote, task: go, agents: [{name: one}, {name: two}]}}\n"
    )
    expected = [_graph("ship")]
    assert resolve("ship.yaml") == Target("StageGraph", expected, "ship.yaml: Ship")
    assert resolve(_file("ship.json", _graph("ship"))) == Target("StageGraph", expected, "ship.json: Ship")


def test_yaml_file_with_a_list_starts_steps() -> None:
    """Phases may be YAML too."""
    Path("plan.yml").write_text("- name: plan\n  steps: [{task_id: a, agent: echo, prompt: hello}]\n")
    phases = [{"name": "plan", "steps": [{"task_id": "a", "agent": "echo", "prompt": "hello"}]}]
    assert resolve("plan.yml") == Target("Steps", [phases], "plan.yml: plan")


def test_state_is_laid_over_the_initial_state() -> None:
    """What the command brings wins over the definition, and what it brings is no doubt to verify."""
    graph = _graph("ship", "{{what}} for {{whom}}", initial_state={"what": "nothing", "whom": "you"})
    started = resolve(_file("ship.json", graph), asked=Asked({"what": "all", "extra": 1}))
    assert started.arguments == [{**graph, "initial_state": {"what": "all", "whom": "you", "extra": 1}}]
    asked = resolve(_file("bare.json", _graph("ship", "{{what}}")), asked=Asked({"what": "all"}))
    assert (asked.arguments[0]["initial_state"], asked.notices) == ({"what": "all"}, ())


def test_several_files_start_a_chain() -> None:
    """Each graph may refer to what the state and the graphs before it bring."""
    first, second = _graph("first", "{{what}}"), _graph("second", "{{stage.s.answer}} {{agent.one.answer}} {{what}}")
    files = [_file("a.json", first), _file("b.json", second)]
    started = resolve(files[0], (), files[1:], Asked({"what": "all"}))
    chain = {"graphs": [first, second], "initial_state": {"what": "all"}}
    assert started == Target("Chain", [chain], "First -> Second")
    assert resolve("Chain", [chain]) == started


def test_input_of_a_chain_is_told_as_it_is_written() -> None:
    """What is wrong with a chain's input is told in the words of JSON."""
    with pytest.raises(InputRejected) as caught:
        resolve("Chain", [{"graphs": 5, "initial_state": []}])
    assert caught.value.message == (
        "Chain: 'graphs' is 5; input should be a list. Chain: 'initial_state' is a list; input should be an object."
    )


def test_doubts_keep_a_graph_from_starting() -> None:
    """A doubt is told with its place and starts nothing, unless --lenient accepts it; then it is told all the same."""
    name = _file("ship.json", _graph("ship", "{{what}}"))
    doubt = "ship.json:1:124: doubt: stage 's': '{{what}}' has no value: nothing in this graph produces 'what'."
    with pytest.raises(Fault) as caught:
        resolve(name)
    ending = "ship.json: 1 doubt; nothing was started. --lenient starts it all the same."
    assert (caught.value.message, caught.value.exit_code) == (f"{doubt}\n{ending}", 2)
    assert resolve(name, asked=Asked(is_lenient=True)).notices == (doubt,)


def test_errors_and_doubts_of_every_graph_are_told_at_once() -> None:
    """Nothing is started where one graph of several cannot run, and each is told."""
    files = [_file("a.json", _graph("a", start="nowhere", color="red")), _file("b.json", _graph("b", "{{x}}"))]
    with pytest.raises(Fault) as caught:
        resolve(files[0], (), files[1:])
    assert caught.value.message.splitlines()[-2:] == [
        "a.json: 1 error and 1 doubt; nothing was started.",
        "b.json: 1 doubt; nothing was started. --lenient starts it all the same.",
    ]


def test_graph_is_checked_against_what_is_served() -> None:
    """An agent that the given agents.toml lacks is a doubt."""
    asked = Asked(served=lambda: Served(agents=("one",), tools=()))
    with pytest.raises(Fault) as caught:
        resolve("StageGraph", [_graph("ship")], asked=asked)
    assert caught.value.message.startswith("StageGraph: doubt: stage 's': agent 'two'")


@pytest.mark.parametrize(
    ("target", "arguments", "files", "state", "message"),
    [
        (
            "five.json",
            [],
            [],
            None,
            "'five.json' holds a number. perdure run takes a stage graph, which is an object with `stages`, or a list "
            "of phases.",
        ),
        (
            "graph.json",
            [],
            ["plan.json"],
            None,
            "'plan.json' holds phases, and several files are run as a chain of stage graphs.",
        ),
        (
            "graph.json",
            [],
            [],
            {"goal": "mine"},
            "The state holds the key 'goal', and only a definition sets it: as `goal`, beside its stages.",
        ),
        ("plan.json", [], [], {}, "--state and --state-file are for stage graphs, and 'plan.json' holds phases."),
        ("Mine", [1], [], {}, "--state and --state-file are for stage graphs. Give 'Mine' its input as INPUT."),
        ("broken.yaml", [], [], None, "broken.yaml:1:1: the document is empty. It takes a stage graph."),
        (
            "StageGraph",
            [],
            [],
            None,
            "StageGraph takes a stage graph. Give it as INPUT, with --input-file, or name a file of it.",
        ),
        ("Chain", [{"graphs": []}], [], None, "Chain: 'graphs' is empty. A chain has at least one graph."),
    ],
    ids=[
        "number",
        "phases in a chain",
        "goal",
        "state for phases",
        "state for a type",
        "empty",
        "no input",
        "no graph",
    ],
)
def test_graph_target_is_refused(
    target: str, arguments: list[Any], files: list[str], state: dict[str, Any] | None, message: str
) -> None:
    """What cannot be started is refused, with what was found and what to do."""
    for name, value in (("five.json", 5), ("graph.json", _graph("g")), ("plan.json", [])):
        _file(name, value)
    Path("broken.yaml").write_text("")
    with pytest.raises(Fault) as caught:
        resolve(target, arguments, files, Asked(state))
    assert caught.value.message == message


def test_graph_too_large_for_a_history_is_refused() -> None:
    """A definition that no history takes is told by its size."""
    with pytest.raises(PayloadTooLarge, match=r"ship\.json: the definition is 2\.5 MB and the limit is 1\.9 MB\."):
        resolve(_file("ship.json", _graph("ship", "x" * 2_500_000)))


def test_what_follows_the_target_is_files_or_one_input() -> None:
    """More files follow a file; one INPUT follows a workflow type."""
    assert divided("a.json", ["b.yaml", "c.yml"]) == (("b.yaml", "c.yml"), None)
    assert divided("Mine", ["1"]) == ((), "1")
    assert divided("Mine", []) == ((), None)
    with pytest.raises(Fault, match=r"^'Mine' takes one INPUT, and 2 were given\."):
        divided("Mine", ["1", "2"])
    with pytest.raises(Fault, match=r"^'1' stands behind the file 'a\.json', and is no \.json, \.yaml or \.yml file\."):
        divided("a.json", ["1"])


def test_state_is_an_object() -> None:
    """The state comes as JSON or from a file; anything else than an object is refused."""
    Path("state.yaml").write_text("what: all\n")
    assert [read_state('{"a": 1}', None), read_state(None, "state.yaml"), read_state(None, None)] == [
        {"a": 1},
        {"what": "all"},
        None,
    ]
    with pytest.raises(Fault, match=r'^--state holds a list, and the state is an object, \{"key": …\}\.$'):
        read_state("[1]", None)
    with pytest.raises(Fault, match=r"^The state is given by --state and by --state-file\. Give it once\.$"):
        read_state("{}", "state.yaml")


PATTERN = {"type": "pattern", "outputs": [], "final_answer": "the\nanswer"}


def _stage(name: str, output: Any = None, status: str = "succeeded", error: str | None = None) -> dict[str, Any]:
    output = {"type": "empty"} if output is None else output
    return {"stage_id": name, "stage_name": name, "status": status, "output": output, "duration_ms": 40, "error": error}


def _result(status: str, *stages: dict[str, Any], undone: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {
        "workflow_id": "ship",
        "workflow_name": "Ship",
        "status": status,
        "stages": list(stages),
        "compensations": list(undone),
        "duration_ms": 3000,
        "timestamp": "2026-01-31T12:00:00.000Z",
        "final_state": {},
    }


def test_failed_graph_tells_its_stages_and_what_was_undone() -> None:
    """Status, stages with answers or errors, graphs inside them, compensations, then how the run ended."""
    inner = {"type": "sub_workflow", "result": _result("completed", _stage("in", PATTERN))}
    undone = [
        {"for_stage_id": "build", "status": "failed", "duration_ms": 40, "error": "no"},
        {"for_stage_id": "plan", "status": "compensated", "duration_ms": 40},
    ]
    failed = _stage("deploy", status="failed", error="it broke")
    result = _result("partially_compensated", _stage("plan"), _stage("build", inner), failed, undone=undone)
    ending = Ending("StageGraph", "failed", result, "partially_compensated", "deploy: it broke")
    assert ending_lines(CLOSED, ending) == [
        "✗ graph 'ship' partially compensated, 3.0 s",
        "  ✓ stage 'plan' succeeded, 0.0 s",
        "  ✓ stage 'build' succeeded, 0.0 s: the answer",
        "    ✓ graph 'ship' completed, 3.0 s",
        "      ✓ stage 'in' succeeded, 0.0 s: the answer",
        "  ✗ stage 'deploy' failed, 0.0 s: it broke",
        "  ✗ stage 'build' could not be undone, 0.0 s: no",
        "  ✓ stage 'plan' undone, 0.0 s",
        "Run 'ship-1' failed after 3.0 s: deploy: it broke.",
    ]
    assert not ending.is_success


def _answers(*errors: str | None) -> dict[str, Any]:
    """The output of a pattern with one agent for each error; None has none."""
    agents = [
        {"name": f"a{number}", "answer": "" if error else "yes", "error": error} for number, error in enumerate(errors)
    ]
    return {"type": "pattern", "outputs": agents, "final_answer": ""}


def test_failed_stage_tells_why_its_agents_failed() -> None:
    """A pattern's own error does not say it; five agents are shown, also those of a `for_each`, and how many more."""
    items = {"type": "for_each", "items": 8, "outputs": [_answers(None), *[_answers("no disk")] * 7]}
    result = _result(
        "failed",
        _stage(
            "routed", _answers("no", None), "failed", error="stage 'pipeline' failed: the last agent 'a0' failed: no"
        ),
        _stage("each", items, "failed", error="7 of 8 items failed; item 1: agent error: no agents produced output"),
    )
    assert ending_lines(CLOSED, Ending("StageGraph", "failed", result, "failed", "each: it broke"))[1:-1] == [
        "  ✗ stage 'routed' failed, 0.0 s: stage 'pipeline' failed: the last agent 'a0' failed: no",
        "  ✗ stage 'each' failed, 0.0 s: 7 of 8 items failed; item 1: agent error: no agents produced output",
        *(f"    ✗ agent 'a0' of item {index}: no disk" for index in range(1, 6)),
        "    … 2 more; `perdure result` has them all",
    ]


def test_chain_tells_each_graph() -> None:
    """The graphs of a chain, one after the other."""
    ending = Ending("Chain", "completed", [_result("completed", _stage("s", PATTERN)), _result("completed")])
    assert ending_lines(CLOSED, ending) == [
        "✓ graph 'ship' completed, 3.0 s",
        "  ✓ stage 's' succeeded, 0.0 s: the answer",
        "✓ graph 'ship' completed, 3.0 s",
        "Run 'ship-1' completed after 3.0 s.",
    ]
    assert ending.is_success


def test_result_of_a_newer_version_is_shown_as_it_is_stored() -> None:
    """A result that this version cannot read is JSON all the same."""
    ending = Ending("StageGraph", "completed", {"from": "tomorrow"})
    assert ending_lines(CLOSED, ending) == [
        "{",
        '  "from": "tomorrow"',
        "}",
        "Run 'ship-1' completed after 3.0 s.",
    ]


def _phase(name: str, index: int, **counts: int) -> dict[str, Any]:
    counted = {"step_count": 0, "running": 0, "succeeded": 0, "failed": 0} | counts
    return {"name": name, "index": index, "status": "done", **counted}


@pytest.fixture
def view() -> View:
    phases = [_phase("plan", 0, step_count=2, succeeded=2), _phase("act", 1), _phase("review", 2)]
    progress = {"running": 0, "succeeded": 2, "failed": 0, "phases": phases, "steps": []}
    budget = {"consumed_tokens": 7, "limit_tokens": None, "granted_tokens": 0, "consumed_usd": 0, "limit_usd": None}
    seen = View(INFO, progress, budget, place=" --local")
    for number, event in enumerate(
        [
            {"type": "stage_started", "stage": "plan", "index": 0},
            {"type": "stage_finished", "stage": "plan", "index": 0, "status": "succeeded", "duration_ms": 0},
            {"type": "stage_finished", "stage": "act", "index": 1, "status": "failed", "duration_ms": 0},
            {"type": "stage_started", "stage": "review", "index": 2},
        ]
    ):
        seen.note({"offset": number, "time": "2026-01-31T12:00:30.000Z", "event": event})
    seen.events = []
    seen.approvals = [
        {
            "id": "2.review",
            "stage": "review",
            "prompt": "Ship\nit?",
            "fields": [{"name": "go", "options": ["yes", "no"], "required": True}],
            "asked": "2026-01-31T12:00:00Z",
            "deadline": "2026-02-01T12:00:00Z",
        }
    ]
    return seen


WAITING = [
    f"… stage 'review' waits for an answer until {moment('2026-02-01T12:00:00Z')}: Ship it?",
    "  go (required, one of 'yes', 'no')",
    "  perdure approve ship-1 2.review --local",
]


def test_stages_in_plain_lines(view: View) -> None:
    """A stage is told by its own state, not by the steps it lacks; what waits by the command that answers it."""
    assert progress_lines(view, START) == [
        "steps: 2 done, 0 failed",
        "  ✓ stage 0 'plan': succeeded, 2 done, 0 failed of 2",
        "  ✗ stage 1 'act': failed",
        "  … stage 2 'review': waits for an answer",
        "budget: 7 tokens used, no limit",
        *WAITING,
    ]


def test_live_view_shows_stages_and_what_waits(view: View) -> None:
    """The live view has a row for each stage, and the command that answers what waits."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(live_view(view, START))
    shown = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert shown == [
        run_line(INFO, START),
        f"0 plan   {'━' * 24} succeeded, 2 done, 0 failed of 2",
        f"1 act    {' ' * 24} failed",
        f"2 review {' ' * 24} waits for an answer",
        "steps: 2 done, 0 failed",
        "budget: 7 tokens used, no limit",
        *WAITING,
    ]


def test_many_questions_are_counted(view: View) -> None:
    """A view has room for some questions, and says how many more there are."""
    lines = waiting_lines("ship-1", view.approvals * 7, "")
    assert lines[-1] == "… 2 more wait; `perdure approvals ship-1` lists them"
    assert len(lines) == 16


def test_failed_chain_tells_the_graphs_before() -> None:
    """A chain that failed has the shape of one that completed: every graph that was begun."""
    failed, before = {"status": "failed"}, [{"status": "completed"}]
    details = [report_of("Chain", [failed, before]), report_of("Chain", [failed]), report_of("StageGraph", [failed])]
    assert [*details, report_of("Chain", [])] == [[*before, failed], [failed], failed, None]


def test_answer_command_can_be_pasted() -> None:
    """Whatever the ids hold, a shell reads the command as it was meant."""
    assert answer_command("my run", "0.a;b", " --local") == "perdure approve 'my run' '0.a;b' --local"


DECISION = ApprovalField(name="decision", label="Your decision", options=("yes", "no", 3), required=True)
NOTE = ApprovalField(name="note")
COUNT = ApprovalField(name="count", field_type="number")
SURE = ApprovalField(name="sure", field_type="boolean")


def _asked(*fields: ApprovalField) -> ApprovalRequest:
    return ApprovalRequest(id="0.s", stage="s", prompt="Ship?", fields=fields, asked="2026-01-31T12:00:00Z")


def test_fields_are_told_with_what_they_take() -> None:
    """Name, label, whether it is required, options or type."""
    assert told_fields(_asked(DECISION, NOTE, SURE)) == [
        "decision: Your decision (required, one of 'yes', 'no', '3')",
        "note (optional)",
        "sure (optional, boolean)",
    ]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [(DECISION, "yes", "yes"), (DECISION, "3", 3), (NOTE, "3", "3"), (COUNT, "2.5", 2.5), (SURE, "No", False)],
    ids=["option", "typed option", "text", "number", "boolean"],
)
def test_value_has_the_type_of_its_field(field: ApprovalField, text: str, value: Any) -> None:
    """A text becomes what the field declares."""
    assert value_of(field, text) == value


@pytest.mark.parametrize(
    ("fields", "given", "response", "is_denied", "answer"),
    [
        ((DECISION, NOTE), ["decision=yes", "note=a=b"], None, False, {"decision": "yes", "note": "a=b"}),
        ((DECISION, NOTE), ["note=why"], None, True, {"decision": "no", "note": "why"}),
        ((SURE, NOTE), [], None, True, {"sure": False}),
        ((), [], None, False, {"approved": True}),
        ((), [], None, True, {"approved": False}),
        ((DECISION,), [], '["any"]', False, ["any"]),
    ],
    ids=["fields", "deny an option", "deny a boolean", "approve", "deny", "response"],
)
def test_answer_is_made_of_the_options(
    fields: tuple[ApprovalField, ...], given: list[str], response: str | None, is_denied: bool, answer: Any
) -> None:
    """Fields by name, a whole response, or yes and no where there are no fields."""
    assert given_answer("r", _asked(*fields), given, response, is_denied=is_denied) == answer


@pytest.mark.parametrize(
    ("fields", "given", "response", "is_denied", "message"),
    [
        (
            (DECISION, NOTE),
            [],
            None,
            False,
            "Approval '0.s' of run 'r' takes these fields:\n"
            "  decision: Your decision (required, one of 'yes', 'no', '3')\n"
            "  note (optional)\n"
            "Give each with --field NAME=VALUE, or all with --response JSON.",
        ),
        ((NOTE,), ["note"], None, False, "--field is 'note', and takes NAME=VALUE."),
        ((NOTE,), ["n=1"], None, False, "--field names 'n', and the fields of approval '0.s' are 'note'."),
        ((NOTE,), ["note=1", "note=2"], None, False, "--field names 'note' twice. Give each field once."),
        (
            (DECISION,),
            ["decision=so"],
            None,
            False,
            "Field 'decision' is 'so', and takes one of 'yes', 'no', '3'.",
        ),
        ((COUNT,), ["count=x"], None, False, "Field 'count' is 'x', and takes a number."),
        ((SURE,), ["sure=so"], None, False, "Field 'sure' is 'so', and takes 'yes' or 'no'."),
        ((), ["a=1"], None, False, "Approval '0.s' of run 'r' has no fields. Leave --field out, or use --response."),
        (
            (NOTE,),
            [],
            None,
            True,
            "Approval '0.s' of run 'r' cannot be denied by --deny: no field says no. Use --field.",
        ),
        (
            (DECISION, SURE),
            [],
            None,
            True,
            "Approval '0.s' of run 'r' cannot be denied by --deny: more than one field or option says no. Use --field.",
        ),
        (
            (),
            [],
            "1",
            True,
            "--response is the whole answer. Leave --field, --message and --deny out, or --response.",
        ),
        (
            (),
            [],
            "no",
            False,
            "--response:1:1: this is no JSON (Expecting value). A text is written in double quotes: '\"text\"'.",
        ),
    ],
    ids=[
        "none",
        "no value",
        "unknown",
        "twice",
        "option",
        "number",
        "boolean",
        "fieldless",
        "no no",
        "two noes",
        "response and deny",
        "no JSON",
    ],
)
def test_answer_is_refused(
    fields: tuple[ApprovalField, ...], given: list[str], response: str | None, is_denied: bool, message: str
) -> None:
    """What cannot be an answer is told here, before the run hears of it."""
    with pytest.raises(Fault) as caught:
        given_answer("r", _asked(*fields), given, response, is_denied=is_denied)
    assert caught.value.message == message
