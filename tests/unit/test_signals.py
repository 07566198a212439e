"""What a signal to leave means."""

from __future__ import annotations

import asyncio
import os
import signal

from runtime.signals import ECHO_SECONDS, asked_to_leave

LIMIT_SECONDS = 20 * ECHO_SECONDS


async def test_signal_is_heard_once_with_its_echo_and_insisted_on_later() -> None:
    """`timeout` sends its signal twice at once: that asks once; whoever sends it again after that insists."""
    insisted: list[signal.Signals] = []
    loop = asyncio.get_running_loop()
    with asked_to_leave(insisted.append) as asked:
        begun = loop.time()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asked.wait(), LIMIT_SECONDS)
        while not insisted:
            assert loop.time() < begun + LIMIT_SECONDS, "nobody was told of the later signals"
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.02)
        assert loop.time() - begun > ECHO_SECONDS
    assert insisted[0] is signal.SIGTERM
