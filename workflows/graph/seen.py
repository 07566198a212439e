"""What a `dedup` stage has seen: a store that outlives runs and is shared by them, as a workflow of its own.

Law: of all runs that ask, exactly one is told that an item is new; one that asks again with the same key, because it
does not know the answer yet, is told the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from pydantic import Field, JsonValue, NonNegativeInt
from pydantic_core import to_json
from temporalio import workflow

from workflows import calls, wire
from workflows.errors import PerdureError, cut
from workflows.graph.outputs import StageFailed
from workflows.wire import Stored

FINGERPRINT_LENGTH = 16
# 64 bits: among a hundred thousand items, one chance in three billion that two are taken for the same.
MAX_SEEN = 50_000
# Fingerprints, at 30 bytes with their expiry, that fit into the argument with which the store continues as new.
MAX_NAME_BYTES = 1_000 - len(wire.SEEN_STORE_ID)
# Of a store: Temporal takes workflow ids of 1,000 bytes, and the refusal of a longer one would be tried again for ever.
MAX_CLAIM = 20_000
# Items asked about in one call; more are asked about in several.
REMEMBERED_CLAIMS = 200
# Answers kept for runs that ask again: those whose worker was lost while it asked.
REMEMBERED_FLAGS = 200_000
# In these answers together, at a character each; the rest of that argument.
MOST_CLAIMS = 400
# Temporal allows 2,000 updates in an execution; the store continues as new long before.


class Claim(Stored):
    """A question to a store: which of these are new? They are seen from then on."""

    key: str
    store: str
    fingerprints: tuple[str, ...]
    ttl_secs: NonNegativeInt | None = None


class Seen(Stored):
    """What a store takes along when it continues as new."""

    until: dict[str, int] = Field(default_factory=dict)
    """Second until which each fingerprint counts as seen; 0 is for ever."""
    answered: dict[str, str] = Field(default_factory=dict)
    """The latest answers by key of the claim: for each of its items, `1` if it was new, else `0`."""


class StoreFull(PerdureError):
    """A store has no room for more fingerprints."""


def fingerprint(item: JsonValue, fields: Sequence[str] = ()) -> str:
    """What tells an item from others: all of it, or, where it is an object, the named fields of it."""
    compared = {name: item.get(name) for name in fields} if fields and isinstance(item, dict) else item
    return sha256(to_json(_ordered(compared))).hexdigest()[:FINGERPRINT_LENGTH]


def _ordered(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


async def claim_unseen(store: str, fingerprints: Sequence[str], ttl_secs: int | None) -> list[bool]:
    """Which of these are new to the store; twice in one list, only the first is. Raises `StageFailed`."""
    if (size := len(store.encode())) > MAX_NAME_BYTES:
        raise StageFailed(f"dedup store {cut(store)!r}: its name has {size:,} bytes and the limit is {MAX_NAME_BYTES}.")
    unseen: list[bool] = []
    for first in range(0, len(fingerprints), MAX_CLAIM):
        part = tuple(fingerprints[first : first + MAX_CLAIM])
        claim = Claim(key=str(workflow.uuid4()), store=store, fingerprints=part, ttl_secs=ttl_secs)
        answer = await calls.claim_unseen(claim.model_dump(mode="json"), store)
        if isinstance(answer, str):
            raise StageFailed(f"dedup store {store!r}: {answer}")
        unseen += answer
    return unseen


@workflow.defn(name=wire.SEEN_STORE_WORKFLOW)
class SeenStore:
    """Remembers fingerprints, for as long as it is asked to. Runs for ever, as new every few hundred claims."""

    @workflow.init
    def __init__(self, seen: Seen | None = None) -> None:
        held = seen or Seen()
        self._until = dict(held.until)
        self._answered = dict(held.answered)
        self._claims = 0

    @workflow.run
    async def run(self, seen: Seen | None = None) -> None:
        """Serve claims, then continue as new with what was seen."""
        await workflow.wait_condition(
            lambda: (
                (self._claims >= MOST_CLAIMS or workflow.info().is_continue_as_new_suggested())
                and workflow.all_handlers_finished()
            )
        )
        workflow.continue_as_new(Seen(until=self._until, answered=self._answered))

    @workflow.update(name=wire.CLAIM_UPDATE)
    def claim(self, asked: Claim) -> tuple[bool, ...]:
        """Whether each fingerprint is new; from now on it is not."""
        if asked.key not in self._answered:
            self._claims += 1
            self._answered[asked.key] = self._judged(asked)
            self._forget_answers()
        return tuple(flag == "1" for flag in self._answered[asked.key])

    def _judged(self, asked: Claim) -> str:
        now = workflow.time_ns() // 1_000_000_000
        self._forget(now)
        new = {name for name in asked.fingerprints if name not in self._until}
        if len(self._until) + len(new) > MAX_SEEN:
            held = f"{len(self._until):,} of {MAX_SEEN:,}"
            raise StoreFull(f"it holds {held} items. Give the stage a ttl_secs, or another store.")
        until = 0 if asked.ttl_secs is None else now + asked.ttl_secs
        flags = []
        for name in asked.fingerprints:
            flags.append("1" if name not in self._until else "0")
            self._until.setdefault(name, until)
        return "".join(flags)

    def _forget_answers(self) -> None:
        kept, flags = 0, 0
        for answer in reversed(self._answered.values()):
            kept, flags = kept + 1, flags + len(answer)
            if kept > REMEMBERED_CLAIMS or flags > REMEMBERED_FLAGS:
                break
        else:
            return
        for oldest in list(self._answered)[: 1 - kept]:
            del self._answered[oldest]

    def _forget(self, now: int) -> None:
        expired = [name for name, until in self._until.items() if until and until <= now]
        for name in expired:
            del self._until[name]

    @workflow.query(name=wire.SEEN_QUERY)
    def count(self) -> dict[str, Any]:
        """How many items the store remembers, and how many it has room for."""
        return {"seen": len(self._until), "room_for": MAX_SEEN}
