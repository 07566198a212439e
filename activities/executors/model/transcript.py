"""What was said in a conversation, and the pieces that it is kept in.

Each answer of the model is a piece, each result of a tool one, and each time that the answer was sent back. In order,
they rebuild the conversation exactly. Pure: no clock, no network.

Law: a shape that was once written stays readable. A new key arrives with a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import JsonValue
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

ANSWER, RESULT, REPLY, CUT = "answer", "result", "reply", "cut"
"""What a piece holds: each is an object with one of these keys."""

Ending = Literal["success", "failed", "denied", "retried"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a call of a tool brought, as the model reads it."""

    call_id: str
    text: str
    ending: Ending = "success"

    def piece(self) -> dict[str, JsonValue]:
        """The result as it is kept."""
        return {RESULT: {"call": self.call_id, "text": self.text, "ending": self.ending}}


@dataclass(slots=True)
class Turn:
    """An answer of the model, the results of the calls in it, and what was said to it where it did not do."""

    answer: ModelResponse
    results: dict[str, Result] = field(default_factory=dict)
    reply: str | None = None

    @property
    def calls(self) -> list[ToolCallPart]:
        """The tool calls of the answer."""
        return self.answer.tool_calls

    @property
    def pending(self) -> list[ToolCallPart]:
        """The calls that have no result."""
        return [call for call in self.calls if call.tool_call_id not in self.results]

    @property
    def text(self) -> str:
        """What the model said beside its calls."""
        return self.answer.text or ""


@dataclass(slots=True)
class Transcript:
    """The conversation so far: the prompt, then turn after turn."""

    prompt: str
    instructions: str = ""
    turns: list[Turn] = field(default_factory=list)
    cut_at: int | None = None
    """The cap that cut the answer which the next turn is to be."""

    def take(self, pieces: Iterable[Any]) -> None:
        """Go on from what was kept. Raises ValueError where a piece is none of ours."""
        for piece in pieces:
            self._take(piece)

    def _take(self, piece: Any) -> None:
        match piece:
            case {"answer": dict(answer)}:
                self.turns.append(Turn(_read(answer)))
                self.cut_at = None
            case {"result": {"call": str(call_id), "text": str(text), "ending": str(ending)}} if self.turns:
                self.turns[-1].results[call_id] = Result(call_id, text, cast(Ending, ending))
            case {"reply": str(text)} if self.turns:
                self.turns[-1].reply = text
            case {"cut": int(tokens)}:
                self.cut_at = tokens
            case _:
                raise ValueError("a piece of the transcript has another shape")

    def answered(self, answer: ModelResponse) -> tuple[Turn, dict[str, JsonValue]]:
        """Begin a turn with an answer; the turn, and the piece to keep."""
        written = _storable(_written(self._with_own_ids(answer)))
        turn = Turn(_read(written))  # as another attempt would read it
        self.turns.append(turn)
        self.cut_at = None
        return turn, {ANSWER: written}

    def _with_own_ids(self, answer: ModelResponse) -> ModelResponse:
        """The answer with ids that no other call of the conversation has: some servers count anew in each turn."""
        known = {call.tool_call_id for turn in self.turns for call in turn.calls}
        parts = list(answer.parts)
        for position, part in enumerate(parts):
            if not isinstance(part, ToolCallPart):
                continue
            call_id, number = part.tool_call_id, len(self.turns) + 1
            while not call_id or call_id in known:
                call_id = f"{part.tool_call_id or 'call'}-{number}"
                number += 1
            known.add(call_id)
            parts[position] = replace(part, tool_call_id=call_id)
        return replace(answer, parts=parts)

    @property
    def last(self) -> Turn | None:
        """The turn that the conversation stands at."""
        return self.turns[-1] if self.turns else None

    def messages(self) -> list[ModelMessage]:
        """The conversation as the next request carries it; every call of it has its result."""
        messages: list[ModelMessage] = [self._request([UserPromptPart(content=_clean(self.prompt))])]
        for turn in self.turns:
            messages += [turn.answer, self._request(_following(turn))]
        return messages

    def _request(self, parts: Sequence[Any]) -> ModelRequest:
        return ModelRequest(parts=parts, instructions=self.instructions or None)


def _following(turn: Turn) -> list[Any]:
    """What comes after an answer: the results in the order of their calls, and what was said."""
    parts: list[Any] = [
        ToolReturnPart(
            tool_name=call.tool_name, content=result.text, tool_call_id=call.tool_call_id, outcome=result.ending
        )
        for call in turn.calls
        if (result := turn.results.get(call.tool_call_id))
    ]
    if turn.reply is not None:
        parts.append(UserPromptPart(content=turn.reply))
    return parts


def _written(answer: ModelResponse) -> dict[str, Any]:
    written: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python([answer], mode="json", exclude_none=True)
    return written[0]


def _read(answer: dict[str, Any]) -> ModelResponse:
    message = ModelMessagesTypeAdapter.validate_python([answer])[0]
    if not isinstance(message, ModelResponse):
        raise ValueError("a piece of the transcript holds no answer of a model")  # noqa: TRY004 - data, not an argument
    return message


def _storable(written: Any) -> Any:
    """An answer that a store and the next request can hold: models write half of a surrogate pair now and then."""
    match written:
        case str():
            return _clean(written)
        case list():
            return [_storable(item) for item in written]
        case dict():
            return {key: _storable(item) for key, item in written.items()}
        case _:
            return written


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
