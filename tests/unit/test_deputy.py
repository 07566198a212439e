"""Who beats while an event loop stands still, and who does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from structlog.testing import capture_logs

from activities import deputy
from activities.deputy import Deputy


class Beats:
    """Counts the beats that it was asked for, by thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def beat(self) -> None:
        self.threads.append(threading.current_thread().name)
        asyncio.get_running_loop()  # as the SDK needs one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second instead of seconds."""
    for name, seconds in {"LOOK": 0.01, "STILL": 0.4, "AGAIN": 0.1, "HUNG": 5.0, "LINGER": 0.1}.items():
        monkeypatch.setattr(deputy, f"{name}_SECONDS", seconds)


def hold(seconds: float) -> None:
    """Keep the loop from turning, as something does that computes."""
    time.sleep(seconds)


async def until_it_turns_again() -> None:
    """The deputy has its answer, and says what there was."""
    await asyncio.sleep(0.1)


async def test_deputy_beats_only_while_the_loop_stands_still() -> None:
    """Each step that joined is beaten for, in a thread with a loop; none that left."""
    beats, left, looking_on = Beats(), Beats(), Deputy()
    looking_on.join(beats.beat)
    looking_on.join(left.beat)
    looking_on.leave(left.beat)
    await asyncio.sleep(0.3)
    assert beats.threads == []
    with capture_logs() as logs:
        with looking_on.watching("counts"):
            hold(1.0)
        await until_it_turns_again()
    assert set(beats.threads) == {"perdure-deputy"}
    assert 1 <= len(beats.threads) <= 6
    assert left.threads == []
    [warning] = logs
    assert warning.pop("seconds") > 0.5
    assert warning.pop("at").startswith("test_deputy.py:")
    assert warning == {
        "event": "The event loop stood still. Write agents that compute or block as `def`: they run in threads.",
        "log_level": "warning",
        "async_agents": ["counts"],
    }
    looking_on.leave(beats.beat)


async def test_deputy_leaves_a_loop_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that will never go on must not seem alive: after a while nobody beats for it."""
    monkeypatch.setattr(deputy, "HUNG_SECONDS", 0.8)
    beats, looking_on = Beats(), Deputy()
    looking_on.join(beats.beat)
    with capture_logs() as logs:
        hold(1.6)
        await until_it_turns_again()
    assert 1 <= len(beats.threads) <= 4
    assert [line["event"] for line in logs] == [
        "The event loop hangs. Its steps are left to other workers; end this one.",
        "The event loop stood still. The worker has more to do at once than one process can: give it fewer slots.",
    ]
    looking_on.leave(beats.beat)


async def test_deputy_goes_on_where_one_beat_fails() -> None:
    """What an interceptor raises costs the other steps nothing."""
    beats, looking_on = Beats(), Deputy()

    def broken() -> None:
        raise RuntimeError("no such heartbeat")

    looking_on.join(broken)
    looking_on.join(beats.beat)
    with capture_logs() as logs:
        hold(1.0)
        await until_it_turns_again()
    assert beats.threads
    failures = [line for line in logs if line["event"] == "A heartbeat could not be sent."]
    assert {line["error"] for line in failures} == {"RuntimeError: no such heartbeat"}
    looking_on.leave(broken)
    looking_on.leave(beats.beat)


async def test_deputy_rests_without_a_step_and_comes_back() -> None:
    """Its thread ends when nobody is left, and another one looks on for the next."""
    looking_on = Deputy()
    for _ in range(2):
        beats, before = Beats(), set(threading.enumerate())
        looking_on.join(beats.beat)
        [thread] = set(threading.enumerate()) - before
        hold(1.0)
        await until_it_turns_again()
        assert beats.threads
        looking_on.leave(beats.beat)
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
