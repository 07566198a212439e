"""What a worker's Prometheus endpoint tells of steps: what the run's own ledger tells."""

from __future__ import annotations

import asyncio
import re
import urllib.request
import uuid
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from activities.registry import Registry
from runtime.connect import connect
from runtime.settings import Settings
from tests.programs import FanOut
from tests.support import World, wait_until
from tests.workers import free_address
from worker import build_worker

AGENTS = """
[agents.frugal]
executor = "echo"
tokens = 120
cost_usd = 0.00025
[agents.broken]
executor = "echo"
tokens = 30
fail = "it broke"
[agents.flaky]
executor = "echo"
tokens = 10
fail_attempts = 1
"""

SAMPLE = re.compile(r"^(perdure_\w+)\{(.*)\} (\d+)$", re.MULTILINE)


async def _scraped(address: str) -> dict[tuple[str, str, str], int]:
    """Every sample of ours: its name, its agent, and what else tells it apart."""
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{address}/metrics").read().decode())
    found = {}
    for name, labels, value in SAMPLE.findall(page):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert {"namespace", "task_queue", "workflow_type"} <= told.keys()
        found[name, told["agent"], told.get("type") or told.get("status") or ""] = int(value)
    return found


async def test_metrics_tell_what_the_run_tells(client: Client, tmp_path: Path) -> None:
    """Tokens, dollars and ends of steps are counted once each, also where the run is replayed for each of its tasks."""
    address = free_address()
    runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=address)))
    settings = Settings(task_queue=f"metrics-{uuid.uuid4()}", drain_seconds=1)
    (tmp_path / "agents.toml").write_text(AGENTS)
    measured = await connect(settings, address=client.service_client.config.target_host, runtime=runtime)
    registry = Registry.load(tmp_path / "agents.toml")
    steps = [
        {"task_id": f"{agent}-{number}", "agent": agent, "prompt": "go"}
        for agent, number in (("frugal", 1), ("frugal", 2), ("broken", 1), ("flaky", 1))
    ]
    async with build_worker(measured, settings, registry=registry, workflows=[FanOut], max_cached_workflows=0):
        world = World(measured, settings.task_queue)
        handle = await world.start("FanOut", steps, max_concurrency=1)
        await handle.result()
        budget = await handle.query("budget")
        expected = {
            ("perdure_tokens", "frugal", "input"): 240,
            ("perdure_tokens", "broken", "input"): 30,
            ("perdure_tokens", "flaky", "input"): 20,
            ("perdure_cost_nanodollars", "frugal", ""): 500_000,
            ("perdure_steps", "frugal", "ok"): 2,
            ("perdure_steps", "broken", "failed"): 1,
            ("perdure_steps", "flaky", "ok"): 1,
        }

        async def told() -> bool:
            return await _scraped(address) == expected

        await wait_until("the metrics are there", told)
    assert (budget["consumed_tokens"], budget["consumed_usd"]) == (290, 0.0005)
