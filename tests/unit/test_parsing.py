"""Wrong input is refused in whole sentences that name what was found and what is taken."""

from typing import Any

import pytest

from workflows.errors import OptionsRejected, PerdureError
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
            "fast",
            "memo perdure_options is 'fast'; input should be a valid dictionary or instance of RunOptions.",
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
            'Steps takes a list of phases, [{"name": …, "steps": […]}]; it was given a dict.',
            id="no list",
        ),
        pytest.param([{"name": "x"}], "Steps: '0.steps' is missing.", id="missing"),
        pytest.param(
            [{"name": "x", "steps": [STEP | {"task_id": 7}]}],
            "Steps: '0.steps.0.task_id' is 7; input should be a valid string.",
            id="wrong type",
        ),
        pytest.param(
            [{"name": "x", "steps": [STEP, STEP]}],
            "phase 'x': task_id 'a' is used by more than one step. Give each step of a call its own.",
            id="duplicate",
        ),
        pytest.param(
            [{"name": "x", "steps": [STEP | {"prompt": None}] * 1}] * 7,
            " ".join(f"Steps: '{n}.steps.0.prompt' is None; input should be a valid string." for n in range(5))
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


def test_unknown_fields_are_named_and_ignored() -> None:
    """A field that a3s would ignore is ignored here too, and said."""
    phases = [{"name": "x", "steps": [STEP | {"max_step": 3}], "colour": "blue"}]
    parse_phases(phases)
    assert unknown_fields(phases) == [
        "phase 0: 'colour' is not known and is ignored. Known are 'name', 'steps'.",
        "step 'a': 'max_step' is not known and is ignored. Did you mean 'max_steps'?",
    ]
