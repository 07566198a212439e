"""`{{key}}`: what it becomes, what it leaves alone, and what a missing key says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.graph.templates import MissingKey, is_on, references, render, render_text

STATE: dict[str, Any] = {
    "name": "Ada",
    "count": 3,
    "none": None,
    "files": ["a.py", "b.py"],
    "stage.plan-1.answer": 'say "hi"',
    "trick": "{{name}}",
}


@pytest.mark.parametrize(
    ("written", "rendered"),
    [
        ("hello {{name}}!", "hello Ada!"),
        ("{{count}} of {{files}}", '3 of ["a.py","b.py"]'),
        ("{{stage.plan-1.answer}}", 'say "hi"'),
        ("{{count}}", 3),
        ("{{files}}", ["a.py", "b.py"]),
        ("{{none}}", None),
        ("({{none}})", "(null)"),
        ("{{ name }}", "Ada"),
        (" {{count}}", " 3"),
        ('{"n":{{count}}}', '{"n":3}'),
        ("{{{{name}}}}", "{{name}}"),
        ("{{{{name}}}} is {{name}}", "{{name}} is Ada"),
        ("{{trick}} {{name}}", "{{name}} Ada"),
        ("{{two words}} {{}} { {name} }", "{{two words}} {{}} { {name} }"),
        ({"a": ["{{count}}", {"{{name}}": "{{name}}"}], "b": 1}, {"a": [3, {"{{name}}": "Ada"}], "b": 1}),
        (7, 7),
    ],
)
def test_reference_becomes_the_value(written: Any, rendered: Any) -> None:
    """Strings raw, the rest as compact JSON; what is exactly one reference keeps its type."""
    assert render(written, STATE) == rendered


def test_text_stays_a_text() -> None:
    """Where only a text will do, one reference alone becomes a text too."""
    assert render_text("{{files}}", STATE) == '["a.py","b.py"]'


def test_missing_key_is_named() -> None:
    """A reference to nothing says which key there is not."""
    with pytest.raises(MissingKey) as caught:
        render({"a": ["{{plan.summary}}"]}, STATE)
    assert (str(caught.value), caught.value.key) == (
        "'{{plan.summary}}' has no value: the state has no key 'plan.summary'",
        "plan.summary",
    )


def test_only_some_references_are_rendered() -> None:
    """Where templates are off, a body's own keys still work, and everything else stays as written."""
    written = "{{item}} {{name}} {{{{item}}}}"
    assert render(written, {"item": 1, **STATE}, only=("item", "index")) == "1 {{name}} {{{{item}}}}"


def test_references_are_listed_once_in_order() -> None:
    """Every key that a value refers to; quoted ones are none."""
    assert references({"a": "{{x}} {{y}}", "b": ["{{z}}", "{{x}}", "{{{{q}}}}"], "{{k}}": 1}) == ("x", "y", "z")


@pytest.mark.parametrize(
    ("metadata", "expected"), [({}, True), ({"templates": True}, True), ({"templates": False}, False)]
)
def test_templates_are_switched_off_by_metadata(metadata: Any, expected: bool) -> None:
    """`templates: false` on the graph or on the stage."""
    assert [is_on(metadata, {}), is_on({}, metadata)] == [expected, expected]


@given(st.text(), st.text())
def test_rendering_never_reads_what_it_put_in(around: str, held: str) -> None:
    """A value of the state goes in as it is, whatever references it holds."""
    around = around.replace("{", "").replace("}", "")
    assert render(f"{around}{{{{key}}}}{around}.", {"key": held}) == f"{around}{held}{around}."


@given(st.text(alphabet="{} ab.-_\\"))
def test_rendering_ends_in_a_text_or_a_missing_key(text: str) -> None:
    """However braces are mixed: nothing else comes out, and with every reference known nothing is missing."""
    assert isinstance(render_text(text, dict.fromkeys(references(text), "x")), str)


@given(st.text(alphabet="ab{} "))
def test_text_without_references_is_left_alone(text: str) -> None:
    """What is no reference stays to the letter."""
    if not references(text) and "{{{{" not in text:
        assert render(text, {}) == text
