"""How an approval is answered on the command line: by fields, by a whole response, or by a no."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.commands.answers import given_answer, value_of
from runtime.commands.options import Fault
from runtime.questions import answer_command, told_fields
from workflows.approvals import ApprovalRequest
from workflows.graph.definition import ApprovalField


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
