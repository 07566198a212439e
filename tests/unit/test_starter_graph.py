"""Stage graphs on the command line: what is started, and what keeps it from starting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.commands.inputs import read_state
from runtime.commands.options import Fault
from runtime.commands.run import divided
from runtime.commands.targets import Asked, Target, resolve
from workflows.errors import InputRejected, PayloadTooLarge
from workflows.graph.step_checks import Served

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
