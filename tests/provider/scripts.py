"""Ready-made scripts.

Law: what is answered follows from the messages of the request alone, so that a conversation which another worker takes
up goes on where it was, and the same request gets the same answer. Only faults are counted by calls.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.provider.replies import Answer, Cut, Hang, Reply, Tokens, ToolCall

Request = dict[str, Any]
Script = Callable[[Request, int], Reply]
"""A request, and which call of the server's life it is (from 1), to what happens."""


def digest(messages: Any) -> str:
    """A short name for a conversation as it stands."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


def turns_taken(request: Request) -> int:
    """How often the model has spoken in this conversation."""
    return sum(message["role"] == "assistant" for message in request["messages"])


def last_text(request: Request, role: str = "user") -> str:
    """The last message of a role, as text."""
    for message in reversed(request["messages"]):
        if message["role"] == role:
            return _text(message.get("content"))
    return ""


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def echo(request: Request, number: int) -> Reply:
    """Answers with the last user message."""
    return Answer(last_text(request))


def always(reply: Reply) -> Script:
    """The same reply to every request."""
    return lambda request, number: reply


def by_turn(*replies: Reply) -> Script:
    """One reply for each turn of a conversation; the last one for all that follow."""
    return lambda request, number: replies[min(turns_taken(request), len(replies) - 1)]


def call_tool(name: str, times: int, arguments: Mapping[str, Any] | None = None, *, then: str = "done") -> Script:
    """Calls a tool in each of its first turns, then answers. `{turn}` in a text argument becomes the turn, from 1."""

    def script(request: Request, number: int) -> Reply:
        turn = turns_taken(request) + 1
        if turn > times:
            return Answer(then)
        given = {key: _with_turn(value, turn) for key, value in (arguments or {}).items()}
        return Answer(calls=(ToolCall(name, given),))

    return script


def _with_turn(value: Any, turn: int) -> Any:
    return value.replace("{turn}", str(turn)) if isinstance(value, str) else value


def structured(*values: Any) -> Script:
    """An object, in whichever way the request asks for one: as JSON text, or by a call of its output tool.

    Several values: one for each turn, so that a wrong one can be repaired.
    """

    def script(request: Request, number: int) -> Reply:
        value = values[min(turns_taken(request), len(values) - 1)]
        output_tool = _output_tool(request)
        if output_tool is None:
            return Answer(value if isinstance(value, str) else json.dumps(value))
        return Answer(calls=(ToolCall(output_tool, value),))

    return script


def _output_tool(request: Request) -> str | None:
    """The tool that takes the final answer, where the request wants it by one."""
    if request.get("response_format", {}).get("type") in ("json_schema", "json_object"):
        return None
    names = [tool["function"]["name"] for tool in request.get("tools", [])]
    return next((name for name in names if name.startswith("final_result")), None)


def metered(script: Script, *, seed: int, input: tuple[int, int], output: tuple[int, int]) -> Script:
    """The script's answers, billed at random between the bounds: the same for the same conversation and seed."""

    def measured(request: Request, number: int) -> Reply:
        reply = script(request, number)
        if not isinstance(reply, Answer):
            return reply
        chance = random.Random(f"{seed} {digest(request['messages'])}")
        return replace(reply, tokens=Tokens(chance.randint(*input), chance.randint(*output)))

    return measured


def slowly(script: Script, seconds: float) -> Script:
    """The script's answers, each after a while."""

    def slowed(request: Request, number: int) -> Reply:
        reply = script(request, number)
        return replace(reply, delay_seconds=seconds) if isinstance(reply, Answer) else reply

    return slowed


def first(faults: Sequence[Reply], script: Script) -> Script:
    """The server's first calls meet these, one each; those that follow, the script."""
    return lambda request, number: faults[number - 1] if number <= len(faults) else script(request, number)


def every(count: int, fault: Reply, script: Script) -> Script:
    """Each count-th call of the server meets the fault."""
    return lambda request, number: script(request, number) if number % count else fault


def cut_short(script: Script, at_turn: int) -> Script:
    """Cuts the connection in the middle of one turn of each conversation, the first time it comes."""
    return _once(script, at_turn, Cut)


def hangs(script: Script, at_turn: int) -> Script:
    """Stops speaking in the middle of one turn of each conversation, the first time it comes."""
    return _once(script, at_turn, Hang)


def _once(script: Script, at_turn: int, fault: Callable[[Answer], Reply]) -> Script:
    met: set[str] = set()

    def faulty(request: Request, number: int) -> Reply:
        reply, name = script(request, number), digest(request["messages"])
        if turns_taken(request) + 1 != at_turn or name in met or not isinstance(reply, Answer):
            return reply
        met.add(name)
        return fault(reply)

    return faulty
