"""The pace of requests to a service: evenly spaced, in order, and held while the service is busy."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest

from activities import pacing
from activities.pacing import LONGEST_HOLD, TURNS_BETWEEN, Muster, Paces, Turns
from activities.registry import Registry
from workflows.errors import AgentsRejected


async def asked(paces: Paces, service: str, per_second: float | None, count: int) -> list[float]:
    """Seconds from now at which each of many requests, asked for at once, goes out; in the order of asking."""
    begun = time.monotonic()

    async def one() -> float:
        await paces.turn(service, per_second, lambda: None)
        return time.monotonic() - begun

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_paces_space_requests_evenly() -> None:
    """The first goes out at once, each other one interval later; nobody overtakes."""
    gone = await asked(Paces(), "m", 20, 5)
    assert gone == sorted(gone)
    assert all(seconds >= 0.05 * place - 0.005 for place, seconds in enumerate(gone))


async def test_paces_leave_other_services_alone() -> None:
    """A service without a limit waits for nobody."""
    paces = Paces()
    paces.hold("busy", timedelta(seconds=20))
    assert (await asked(paces, "free", None, 3))[-1] < 5


async def test_paces_hold_back_while_a_service_is_busy() -> None:
    """What one request was told holds for all, also where no rate is set; and a step that waits says it is alive."""
    paces, alive = Paces(), 0

    def touch() -> None:
        nonlocal alive
        alive += 1

    paces.hold("m", timedelta(seconds=1.2))
    begun = time.monotonic()
    await paces.turn("m", None, touch)
    assert time.monotonic() - begun >= 1.2 - 0.01
    assert alive == 2


async def test_paces_hold_no_longer_than_a_slot_is_worth() -> None:
    """A service that asks for hours holds the others for half a minute: then each of them hears it for itself."""
    paces = Paces()
    paces.hold("m", timedelta(hours=2))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await paces.turn("m", None, lambda: None)
    held = paces._free_at["m"] - asyncio.get_running_loop().time()
    assert LONGEST_HOLD.total_seconds() - 10 < held <= LONGEST_HOLD.total_seconds()


def test_rates_are_read(tmp_path: Path) -> None:
    """`[rates]` names models; what is no rate is refused with the rest of the file."""
    file = tmp_path / "agents.toml"
    file.write_text('[rates]\n"openai:small" = 5\n')
    assert Registry.load(file).rates == {"openai:small": 5.0}
    file.write_text('[rates]\n"openai:small" = 0\n"openai:large" = true\n')
    with pytest.raises(AgentsRejected) as refused:
        Registry.load(file)
    assert refused.value.message.splitlines() == [
        f"{file}: rates: 'openai:small' is 0; a rate is a number above 0, requests a second.",
        f"{file}: rates: 'openai:large' is True; a rate is a number above 0, requests a second.",
    ]


async def test_conversations_that_come_together_begin_together() -> None:
    """They come in one for each turn of the loop, and none begins before the last has come."""
    muster, came, begun = Muster(), 0, []

    async def conversation() -> None:
        await muster.gather()
        begun.append(came)

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            came += 1
            group.create_task(conversation())
            await asyncio.sleep(0)
    assert begun == [50] * 50


async def test_conversation_begins_though_others_come_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it waits for nobody."""
    monkeypatch.setattr(pacing, "LONGEST_MUSTER_SECONDS", 0.05)
    muster = Muster()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        first = group.create_task(muster.gather())
        while not first.done():
            group.create_task(muster.gather())
            await asyncio.sleep(0.001)


async def test_requests_are_prepared_one_by_one_with_turns_between() -> None:
    """In the order of asking, and between two the event loop does what else there is."""
    turns, done = Turns(), asyncio.Event()
    seen: list[str] = []

    async def request(name: str) -> None:
        await turns.take()
        seen.append(name)

    async def else_there_is() -> None:
        while not done.is_set():
            seen.append(".")
            await asyncio.sleep(0)

    beside = asyncio.create_task(else_there_is())
    await asyncio.gather(*(request(name) for name in "abc"))
    done.set()
    await beside
    [_, before_b, before_c, _] = re.split("[abc]", "".join(seen))
    assert min(len(before_b), len(before_c)) >= TURNS_BETWEEN
    assert [name for name in seen if name != "."] == ["a", "b", "c"]
