"""Wrong input is refused in whole sentences that name what was found and what is taken."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, JsonValue

from workflows.errors import InputRejected, OptionsRejected, PerdureError
from workflows.parsing import parse
from workflows.steps import RunOptions
from workflows.steps_workflow import parse_phases, unknown_fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"budget_token": 5},
            "memo perdure_options: 'budget_token' is not known. Did you mean 'budget_tokens'?",
            id="unknown",
        ),
        pytest.param(
            {"max_attempts": 0},
            "memo perdure_options: 'max_attempts' is 0; input should be greater than 0.",
            id="out of range",
        ),
        pytest.param(
            {"on_exhausted": "panic"},
            "memo perdure_options: 'on_exhausted' is 'panic'; input should be 'deny' or 'wait'.",
            id="no such choice",
        ),
        pytest.param(
            {"max_concurrency": 1.5, "task_queues": {"a": ""}},
            "memo perdure_options: 'max_concurrency' is 1.5; input should be a whole number. "
            "memo perdure_options: 'task_queues.a' is ''; text should have at least 1 character.",
            id="wrong types",
        ),
        pytest.param(
            "fast",
            "memo perdure_options is 'fast'; input should be an object.",
            id="no object",
        ),
    ],
)
def test_options_are_refused_by_name(options: Any, message: str) -> None:
    """A bad run option fails the run with a sentence that names it."""
    with pytest.raises(OptionsRejected) as refused:
        parse(RunOptions, options, "memo perdure_options", OptionsRejected)
    assert refused.value.message == message


STEP = {"task_id": "a", "agent": "b", "prompt": "p"}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        pytest.param(
            {"name": "x"},
            'Steps takes a list of phases, [{"name": …, "steps": […]}]; it was given an object.',
            id="no list",
        ),
        pytest.param([{"name": "x"}], "Steps: '0.steps' is missing.", id="missing"),
        pytest.param(
            [{"name": "x", "steps": [STEP | {"task_id": 7}]}],
            "Steps: '0.steps.0.task_id' is 7; input should be a text.",
            id="wrong type",
        ),
        pytest.param(
            [{"name": "x", "steps": [STEP, STEP]}],
            "phase 'x': task_id 'a' is used by more than one step. Give each step of a call its own.",
            id="duplicate",
        ),
        pytest.param(
            [{"name": "x", "steps": [STEP | {"prompt": None}] * 1}] * 7,
            " ".join(f"Steps: '{n}.steps.0.prompt' is null; input should be a text." for n in range(5))
            + " and 2 more.",
            id="many",
        ),
    ],
)
def test_phases_are_refused_with_their_place(phases: Any, message: str) -> None:
    """The input of `Steps` is refused with the place of each mistake."""
    with pytest.raises(PerdureError) as refused:
        parse_phases(phases)
    assert refused.value.message == message


class Every(BaseModel):
    """A field of every kind that people write."""

    a_list: tuple[int, ...] = ()
    an_object: dict[str, JsonValue] = {}
    another: RunOptions = RunOptions()
    a_text: str = ""
    a_whole_number: int = 0
    a_number: float = 0.0
    a_switch: bool = False
    many: tuple[int, ...] = Field(default=(1,), min_length=1)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("a_list", {}, "is an object; input should be a list."),
        ("an_object", [], "is a list; input should be an object."),
        ("another", 3, "is 3; input should be an object."),
        ("a_text", None, "is null; input should be a text."),
        ("a_whole_number", "x", "is 'x'; input should be a whole number."),
        ("a_whole_number", 1.5, "is 1.5; input should be a whole number."),
        ("a_number", "x", "is 'x'; input should be a number."),
        ("a_switch", "maybe", "is 'maybe'; input should be true or false."),
        ("many", [], "is a list; list should have at least 1 item, not 0."),
    ],
)
def test_types_are_told_as_people_write_them(field: str, value: Any, told: str) -> None:
    """No message speaks of Python's types: who reads it wrote JSON."""
    with pytest.raises(InputRejected) as refused:
        parse(Every, {field: value}, "here", InputRejected)
    assert refused.value.message == f"here: {field!r} {told}"


def test_unknown_fields_are_named_and_ignored() -> None:
    """A field that a3s would ignore is ignored here too, and said."""
    phases = [{"name": "x", "steps": [STEP | {"max_step": 3}], "colour": "blue"}]
    parse_phases(phases)
    assert unknown_fields(phases) == [
        "phase 0: 'colour' is not known and is ignored. Known are 'name', 'steps'.",
        "step 'a': 'max_step' is not known and is ignored. Did you mean 'max_steps'?",
    ]
