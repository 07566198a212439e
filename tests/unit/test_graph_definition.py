"""Reading a definition: JSON and YAML, what is refused with its place, and what other engines' files hold."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from workflows.errors import GraphRejected
from workflows.graph.definition import ApprovalStep, GraphDefinition
from workflows.graph.locating import Place
from workflows.graph.reading import Unreadable, parse_text
from workflows.graph.schema import graph_schema
from workflows.graph.verify import load_graph

CAR = {
    "id": "review-deploy",
    "name": "Review and Deploy",
    "start": "review",
    "goal": None,
    "max_iterations": 100,
    "metadata": {"owner": "ops", "anything": [1, {"tags": None}]},
    "stages": [
        {
            "id": "review",
            "name": "Review",
            "timeout_ms": 0,
            "step": {
                "type": "pattern",
                "pattern": "vote",
                "task": "Is it safe?",
                "agents": [
                    {
                        "name": "a",
                        "system_prompt": "Be strict.",
                        "tools": [],
                        "max_turns": 10,
                        "metadata": {"model": "m"},
                        "cache_control": False,
                    }
                ],
                "config": {},
            },
        },
        {
            "id": "gate",
            "name": "Gate",
            "step": {
                "type": "approval",
                "prompt": "Go?",
                "output_key": "go",
                "fields": [{"name": "verdict", "label": None, "field_type": "select", "options": ["yes", "no"]}],
            },
        },
        {
            "id": "deploy",
            "name": "Deploy",
            "step": {
                "type": "proposal",
                "proposal": {
                    "id": "p",
                    "source": "planner",
                    "timestamp": "2026-01-01T00:00:00Z",
                    "context": {"k": "v"},
                    "actions": [
                        {
                            "id": "a1",
                            "type": "tool_call",
                            "tool": "deploy",
                            "parameters": {"env": "prod"},
                            "preconditions": [{"key": "go.verdict", "operator": "eq", "value": "yes"}],
                            "read_set": [],
                            "write_set": [],
                            "assumptions": [],
                            "failure_behavior": "retry",
                        },
                        {"type": "state_write", "parameters": {"key": "done", "value": True}},
                    ],
                },
            },
            "compensation": {"type": "proposal", "proposal": {"actions": [{"type": "tool_call", "tool": "undo"}]}},
        },
    ],
    "edges": [
        {"from": "review", "to": "gate", "conditions": [{"key": "stage.review.succeeded", "value": True}], "label": ""},
        {"from": "gate", "to": "deploy"},
    ],
}


def test_definition_of_car_loads() -> None:
    """A file of the original engine is a definition, nulls and unused fields included."""
    graph = load_graph(json.dumps(CAR), file="car.json")
    gate = graph.stages[1].step
    assert isinstance(gate, ApprovalStep)
    assert (gate.fields[0].label, gate.fields[0].options, graph.stages[0].timeout_ms) == ("", ("yes", "no"), 0)
    assert [action.id for action in graph.stages[2].step.proposal.actions] == ["a1", "action-1"]  # type: ignore[union-attr]
    assert (graph.edges[0].source, graph.edges[0].conditions[0].operator) == ("review", "eq")


def test_definition_survives_its_own_json() -> None:
    """What a history stores of a definition reads back as the same definition."""
    graph = load_graph(CAR)
    assert GraphDefinition.model_validate(graph.model_dump(mode="json", by_alias=True)) == graph


def test_yaml_and_json_read_the_same() -> None:
    """A definition in YAML, with an anchor, is the one in JSON."""
    yaml = """
        id: g
        name: Graph
        start: a
        stages:
          - id: a
            step: &work {type: pattern, pattern: vote, task: "Do it", agents: [{name: x}]}
          - id: b
            step: *work
        edges: [{from: a, to: b}]
    """
    work = {"type": "pattern", "pattern": "vote", "task": "Do it", "agents": [{"name": "x"}]}
    plain = {
        "id": "g",
        "name": "Graph",
        "start": "a",
        "stages": [{"id": "a", "step": work}, {"id": "b", "step": work}],
        "edges": [{"from": "a", "to": "b"}],
    }
    assert load_graph(yaml, file="g.yaml") == load_graph(json.dumps(plain)) == load_graph(plain)


def test_yaml_has_no_surprising_types() -> None:
    """Only what looks like JSON is no text: `no` and dates stay what they look like."""
    text = "a: [no, on, 2026-01-01, 12:30, '5', null, ~, true, 1_000, 0x10, 012, 1.5, .5, -3, 1e3]\n"
    values = parse_text(text).value["a"]
    texts = ["no", "on", "2026-01-01", "12:30", "5"]
    assert values == [*texts, None, None, True, "1_000", 16, 12, 1.5, 0.5, -3, 1000.0]


def billion_laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


BROKEN: list[tuple[str, str, str, Place | None]] = [
    ("x.json", '{"id": "a",}', "this is no JSON (Expecting property name enclosed in double quotes).", Place(1, 12)),
    (
        "x.json",
        '{\n  "id": 1,\n  "id": 2}',
        "the key 'id' stands twice in one object. Remove one of them.",
        Place(3, 3),
    ),
    ("x.json", "[NaN]", "JSON has no NaN.", Place(1, 2)),
    ("x.json", "[-Infinity]", "JSON has no -Infinity.", Place(1, 2)),
    ("x.json", '{"a":\n 1e999}', "the number 1e999 is too large.", Place(2, 2)),
    ("x.json", "[" * 201 + "]" * 201, "the document is nested more than 200 levels deep. Flatten it.", Place(1, 201)),
    ("x.json", "[" * 100_000, "the document is nested more than 200 levels deep. Flatten it.", Place(1, 201)),
    (
        "x.json",
        '{"a": "\\ud800"}',
        "a text holds half a character (a surrogate without its pair). Write the character itself.",
        Place(1, 7),
    ),
    ("x.json", " \n", "the document is empty. It takes a stage graph.", Place(1, 1)),
    (
        "x.yaml",
        "a: [1",
        "this is no YAML (while parsing a flow sequence: did not find expected ',' or ']').",
        Place(2, 1),
    ),
    ("x.yaml", "a: 1\na: 2", "the key 'a' stands twice in one object. Remove one of them.", Place(2, 1)),
    ("x.yaml", "a: .inf", "JSON has no .inf. Put it in quotes if it is a text.", Place(1, 4)),
    (
        "x.yaml",
        "a: !!python/object/apply:os.system [ls]",
        "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not supported. "
        "Tags have no meaning here; remove it.",
        Place(1, 4),
    ),
    ("x.yaml", "<<: {a: 1}", "merge keys ('<<') are not supported. Write the fields out.", Place(1, 1)),
    ("x.yaml", "a: *b", "the alias '*b' names nothing. Its anchor '&b' has to come first.", Place(1, 4)),
    ("x.yaml", "a: &b [*b]", "the alias '*b' stands inside what it names.", Place(1, 8)),
    ("x.yaml", billion_laughs(), "aliases repeat more than 1,000,000 characters. Write less, or less often.", None),
    ("x.yaml", "? [a]\n: b", "a key is a list, a map or an alias. Keys are texts.", Place(1, 3)),
    ("x.yaml", "a: 1\n---\nb: 2", "there is more than one document. Keep one in each file.", Place(2, 1)),
    ("x.yaml", "a: \x01", "this is no YAML (the character '\\x01' is not allowed).", Place(1, 4)),
    ("x.yaml", "é: ü\né: \ud800", "this is no YAML (the character '\\ud800' is not allowed).", Place(2, 4)),
    ("x.yaml", "{a: " * 300, "the document is nested more than 200 levels deep. Flatten it.", Place(1, 801)),
]


@pytest.mark.parametrize(("file", "text", "message", "place"), BROKEN, ids=range(len(BROKEN)))
def test_text_that_is_no_document_says_where(file: str, text: str, message: str, place: Place | None) -> None:
    """Broken, hostile or ambiguous texts end in one sentence and a place, never in a recursion or a full memory."""
    with pytest.raises(Unreadable) as caught:
        parse_text(text, file)
    assert caught.value.message == message
    assert place is None or caught.value.place == place


def stage(**fields: Any) -> dict[str, Any]:
    return {"id": "g", "name": "G", "start": "a", "stages": [{"id": "a", **fields}]}


TYPES = "'approval', 'dedup', 'deliver', 'for_each', 'loop_until', 'pattern', 'proposal' and 'sub_workflow'"

MISTAKES: list[tuple[Any, str]] = [
    ([], "g.json:1:1: a stage graph is an object with id, name, start and stages; this is a list."),
    ({"id": "g", "name": "G", "stages": []}, "g.json:1:1: 'start' is missing."),
    (
        {"id": "g", "name": "G", "start": "a", "stages": 3},
        "g.json:1:50: 'stages' is 3; input should be a list.",
    ),
    (stage(), "g.json:1:51: stage 'a': 'step' is missing."),
    (stage(step={"type": "patern"}), f"g.json:1:80: stage 'a': 'step' has the type 'patern'. The types are {TYPES}."),
    (stage(step={}), f"g.json:1:71: stage 'a': 'step' has no 'type'. The types are {TYPES}."),
    (
        stage(step={"type": "proposal", "proposal": {"actions": [{"type": "tool_cal"}]}}),
        "g.json:1:126: stage 'a': 'step.proposal.actions.0.type' is 'tool_cal'; "
        "input should be 'tool_call', 'state_write', 'state_read' or 'assertion'.",
    ),
    (
        stage(step={"type": "proposal", "proposal": {"actions": []}}, compensation={"type": "stage"}),
        "g.json:1:147: stage 'a': 'compensation' has the type 'stage'. The types are 'proposal' and 'stage_ref'.",
    ),
]


@pytest.mark.parametrize(("value", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_value_that_is_no_definition_says_where(value: Any, message: str) -> None:
    """A wrong or missing field is told with its place, its stage, what was found and what was expected."""
    with pytest.raises(GraphRejected) as caught:
        load_graph(json.dumps(value), file="g.json")
    assert caught.value.message == message


def test_value_with_many_mistakes_tells_the_first_five() -> None:
    """All mistakes are found at once; a message tells five and counts the rest."""
    with pytest.raises(GraphRejected) as caught:
        load_graph({"stages": [{}, {}, {}]})
    assert caught.value.message == "\n".join(
        [
            "'id' is missing.",
            "'name' is missing.",
            "'start' is missing.",
            "'stages.0.id' is missing.",
            "'stages.0.step' is missing.",
            "and 4 more.",
        ]
    )


def test_file_name_is_not_taken_for_a_text() -> None:
    """`load_graph` reads texts, not files, and says so to whoever gives it a path."""
    with pytest.raises(GraphRejected) as caught:
        load_graph("graphs/audit.yaml")
    assert caught.value.message == (
        "'graphs/audit.yaml' is the name of a file. Read the file, and give its text with file='graphs/audit.yaml'."
    )


def test_schema_accepts_what_loads_and_marks_the_rest() -> None:
    """The exported JSON Schema is one, takes a definition of the original engine, and marks a misspelt field."""
    schema = graph_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    accepted = json.loads(json.dumps(CAR))
    del accepted["stages"][1]["step"]["fields"][0]["label"]  # null is taken for unset, and no editor need know
    assert list(validator.iter_errors({"$schema": "perdure.json", **accepted})) == []
    accepted["stages"][0]["tmeout_ms"] = 5
    assert [error.message for error in validator.iter_errors(accepted)] == [
        "Additional properties are not allowed ('tmeout_ms' was unexpected)"
    ]
