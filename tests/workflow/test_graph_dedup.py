"""A `dedup` stage lets through what its store, which runs share, has not seen."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.definitions import graph, stage
from tests.graphs import (
    complete,
    error_of,
    fail,
)
from tests.support import World, wait_until


def dedup(store: str, **fields: Any) -> dict[str, Any]:
    """A dedup of `items` into `new`."""
    return {"type": "dedup", "items_from": "items", "into": "new", "store": store, **fields}


@pytest.fixture
def store() -> str:
    """A store of the test's own."""
    return str(uuid.uuid4())


async def _seen(world: World, step: dict[str, Any], items: Any) -> dict[str, Any]:
    state = (await complete(world, graph(stage("s", step), initial_state={"items": items})))["final_state"]
    return {key: value for key, value in state.items() if key not in ("items", "stage.s.succeeded", "stage.s.answer")}


async def test_dedup_lets_through_what_no_run_has_seen(world: World, store: str) -> None:
    """The store is shared by runs; within one list, too, only the first of equal items is new."""
    first = await _seen(world, dedup(store), ["a", {"x": 1, "y": 2}, "a", 1, True])
    assert first == {"new": ["a", {"x": 1, "y": 2}, 1, True], "stage.s.unseen_count": 4, "stage.s.total_count": 5}
    second = await _seen(world, dedup(store), [{"y": 2, "x": 1}, "b", "a"])
    assert second == {"new": ["b"], "stage.s.unseen_count": 1, "stage.s.total_count": 3}


async def test_dedup_stores_are_apart(world: World, store: str) -> None:
    """A seen-set per store."""
    await _seen(world, dedup(store), ["a"])
    assert (await _seen(world, dedup(f"{store}-2"), ["a"]))["new"] == ["a"]


async def test_dedup_compares_the_fields_it_is_told(world: World, store: str) -> None:
    """Hash_fields."""
    items = [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}, {"id": 2, "text": "a"}, "id"]
    told = await _seen(world, dedup(store, hash_fields=["id"]), items)
    assert told["new"] == [items[0], items[2], items[3]]


@pytest.mark.parametrize("state", [{}, {"items": "text"}], ids=["missing", "text"])
async def test_dedup_without_items_finds_nothing_new(world: World, store: str, state: Any) -> None:
    """As for_each, missing or no array is nothing to do."""
    result = await complete(world, graph(stage("s", dedup(store)), initial_state=state))
    assert (result["final_state"]["new"], result["final_state"]["stage.s.total_count"]) == ([], 0)


async def test_dedup_forgets_after_its_ttl(world: World, store: str) -> None:
    """Ttl_secs; 0 remembers nothing beyond the one list."""
    assert (await _seen(world, dedup(store, ttl_secs=0), ["a", "a"]))["new"] == ["a"]
    assert (await _seen(world, dedup(store, ttl_secs=1), ["a"]))["new"] == ["a"]

    async def forgotten() -> bool:
        return bool((await _seen(world, dedup(store, ttl_secs=1), ["a"]))["new"] == ["a"])

    await wait_until("the item counts as new again", forgotten)


async def test_dedup_tells_one_of_several_runs_that_an_item_is_new(world: World, store: str) -> None:
    """Runs at once share the store; each item is new to exactly one of them."""
    items = list(range(50))
    told = await asyncio.gather(*(_seen(world, dedup(store), items) for _ in range(4)))
    assert sorted(item for each_told in told for item in each_told["new"]) == items


async def test_dedup_store_that_is_full_says_so(world: World, store: str) -> None:
    """What does not fit fails the stage, naming the store and the way out; nothing is forgotten silently."""
    step = dedup(store)
    for first in (0, 25_000):
        await complete(world, graph(stage("s", step), initial_state={"items": list(range(first, first + 25_000))}))
    result = await fail(world, graph(stage("s", step), initial_state={"items": ["one more"]}))
    assert error_of(result, "s") == (
        f"dedup store {store!r}: it holds 50,000 of 50,000 items. Give the stage a ttl_secs, or another store."
    )
