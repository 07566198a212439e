"""What `perdure run` is given to read: JSON on the command line, JSON and YAML in files and on stdin.

Law: what cannot be read is told by its name, its line and its column.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runtime.commands.graphs import read_graph
from runtime.commands.options import Fault
from workflows.graph import reading
from workflows.graph.reading import Unreadable, parse_text

KINDS = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
"""What a sentence calls a JSON value by its type; true, false and null are called by their names."""


@dataclass(frozen=True)
class Document:
    """A value that was given, and what messages call it."""

    name: str
    value: Any
    text: str | None = None
    """To find places in; None where the value did not come from a file."""


def read_document(name: str) -> Document:
    """A JSON or YAML file, by its suffix; `-` is stdin."""
    shown, text = read_graph(name)
    try:
        return Document(shown, parse_text(text, shown).value, text)
    except Unreadable as fault:
        place = f":{fault.place.line}:{fault.place.column}" if fault.place else ""
        raise Fault(f"{shown}{place}: {fault.message}") from None


def read_input(argument: str | None, text: str | None, file: str | None) -> list[Any]:
    """The arguments of the run: one JSON value, or none."""
    given = [
        (source, value) for source, value in (("INPUT", argument), ("--input", text), ("--input-file", file)) if value
    ]
    if len(given) > 1:
        raise Fault(f"The input is given by {' and by '.join(source for source, _ in given)}. Give it once.")
    if not given:
        return []
    source, value = given[0]
    return [read_json_file(value) if source == "--input-file" else parse_json(value, source)]


def read_state(text: str | None, file: str | None) -> dict[str, Any] | None:
    """The state that `--state` (JSON) or `--state-file` (JSON or YAML) brings; None where neither is given."""
    if text is not None and file is not None:
        raise Fault("The state is given by --state and by --state-file. Give it once.")
    if file is not None:
        found = read_document(file)
    elif text is not None:
        found = Document("--state", parse_json(text, "--state"))
    else:
        return None
    if not isinstance(found.value, dict):
        raise Fault(f'{found.name} holds {kind_of(found.value)}, and the state is an object, {{"key": …}}.')
    return found.value


def kind_of(value: Any) -> str:
    """What a JSON value is, in a sentence."""
    return KINDS.get(type(value)) or json.dumps(value)


def read_json_file(name: str) -> Any:
    """The JSON value of a file; `-` is stdin."""
    shown, text = read_graph(name)
    return parse_json(text, shown)


def parse_json(text: str, source: str) -> Any:
    """A JSON value, or where it stops being one."""
    try:
        return reading.parse_json(text)
    except Unreadable as fault:
        place = f":{fault.place.line}:{fault.place.column}" if fault.place else ""
        is_bare = fault.message.startswith("this is no JSON") and text.lstrip()[:1] not in ("{", "[", '"')
        hint = """ A text is written in double quotes: '"text"'.""" if is_bare else ""
        raise Fault(f"{source}{place}: {fault.message}{hint}") from None
