"""What a run asks a person, as people see it: the question, its fields, and the command that answers it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runtime.standing import Json
from runtime.texts import moment, one_line
from workflows.approvals import ApprovalRequest
from workflows.graph.conditions import as_text
from workflows.graph.definition import ApprovalField

SHOWN_QUESTIONS = 5
# Of what waits; `perdure approvals` lists all of it.


def question_lines(run: str, asked: ApprovalRequest, place: str) -> list[str]:
    """A question in full: when it was asked, what it says, what it takes, and the command that answers it."""
    until = f", waits until {moment(asked.deadline)}" if asked.deadline else ""
    head = f"{run}  {asked.id}  {asker(asked.model_dump())}, asked {moment(asked.asked)}{until}"
    return [head, *(f"  {line}".rstrip() for line in asked.prompt.splitlines()), *answering_lines(run, asked, place)]


def waiting_lines(run: str, waiting: Sequence[Json], place: str) -> list[str]:
    """What waits for a person: each question in a line, what it takes, and the command that answers it."""
    lines = []
    for asked in map(ApprovalRequest.model_validate, waiting[:SHOWN_QUESTIONS]):
        until = f" until {moment(asked.deadline)}" if asked.deadline else ""
        lines.append(f"… {asker(asked.model_dump())} waits for an answer{until}: {one_line(asked.prompt)}")
        lines += answering_lines(run, asked, place)
    more = len(waiting) - SHOWN_QUESTIONS
    if more > 0:
        lines.append(f"… {more:,} more wait; `perdure approvals {shlex.quote(run)}{place}` lists them")
    return lines


def asker(asked: Json) -> str:
    """Who asks: a stage, or a step whose agent wants to call a tool; of a question or of the event that tells it."""
    of_stage = f"stage {asked['stage']!r}"
    if not asked.get("step"):
        return of_stage
    return f"step {asked['step']!r}" + (f" of {of_stage}" if asked["stage"] else "")


def answering_lines(run: str, asked: ApprovalRequest, place: str) -> list[str]:
    """What a question takes, and the command that answers it."""
    command = answer_command(run, asked.id, place)
    if asked.step is None:
        return [f"  {line}" for line in (*told_fields(asked), command)]
    others = f"{command} --deny --message 'why not'"  # of a tool call most people say yes or no
    return [f"  {line}" for line in (*told_fields(asked), f"{command} --field decision=approve", others)]


def answer_command(run: str, approval: str, place: str) -> str:
    """The command that answers an approval; on a terminal it asks for the fields."""
    return f"perdure approve {shlex.quote(run)} {shlex.quote(approval)}{place}"


def told_fields(asked: ApprovalRequest) -> list[str]:
    """A line for each field: its name, its label, whether it is required, and what it takes."""
    return [f"{field.name}{described(field)}" for field in asked.fields]


def described(field: ApprovalField) -> str:
    """What follows a field's name: its label, whether it is required, and what it takes."""
    label = f": {field.label}" if field.label else ""
    notes = ["required" if field.required else "optional"]
    notes += [offered(field)] if field.options else [field.field_type] if field.field_type != "text" else []
    return f"{label} ({', '.join(notes)})"


def offered(field: ApprovalField) -> str:
    """The options of a field, in a sentence."""
    return "one of " + ", ".join(repr(as_text(option)) for option in field.options)
