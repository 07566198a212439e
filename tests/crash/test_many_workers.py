"""Eight workers on one machine: some are killed, some told to leave, all of them replaced by another build.

Whatever happens to them, a run that was pinned to a build ends on it, a run that begins later begins on the next one,
and no finished step begins again.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from temporalio.api.enums.v1 import RoutingConfigUpdateState
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from tests.crash.agents import Gates
from tests.crash.checks import in_flight, lawful_finishes, report_of
from tests.crash.diary import Diary, Work
from tests.crash.histories import repeated
from tests.crash.processes import Ground, Process
from tests.crash.programs import labour
from tests.support import World, wait_until
from workflows import AgentStepSpec

Measured = Callable[[str], None]

WORKERS = 8
SLOTS = 4
# Of each worker: so few that what a test starts fills them all, and every worker takes part.
SMALL = {"PERDURE_MAX_CONCURRENT_STEPS": str(SLOTS), "PERDURE_MAX_POLLERS": "2"}

HELD = "held"
"""The gate that the open runs wait at."""

START_SECONDS = 60.0
# Eight interpreters load the SDK at once, on as few as two processors.

WALL_SECONDS = 60.0
# From the first kill to the end of the last run; a lost step comes back after six.


async def test_many_workers_share_a_fan_out_and_lose_nothing_when_some_are_killed_and_some_leave(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Eight take part; two are killed in the middle and two drain, and every step ends once with its first key."""
    workers = [ground.worker(**SMALL) for _ in range(WORKERS)]
    run = await world.start("Phased", [labour(120, 0.5)], max_concurrency=WORKERS * SLOTS)
    await wait_until("every worker has steps", partial(_all_take_part, diary, workers), START_SECONDS)
    began = time.time()
    killed, leaving = workers[:2], workers[2:4]
    lost = [work for work in in_flight(diary) if work.pid in _pids(killed)]
    for worker in killed:
        worker.kill()
    for worker in leaving:
        worker.signal(signal.SIGTERM)
    codes = [await worker.ended() for worker in leaving]
    left = [work for work in in_flight(diary) if work.pid in _pids(leaving)]
    report = await report_of(run)
    wall = time.time() - began

    assert codes == [0, 0], f"the workers that were told to leave exited {codes}"
    assert left == [], f"the workers that were told to leave left steps behind: {left}"
    assert [outcome.output.split(" ")[0] for outcome in report.outcomes] == [f"s{n}" for n in range(120)]
    assert all(outcome.success for outcome in report.outcomes), "steps failed"
    finished = await lawful_finishes(diary, run)
    by_worker = Counter(int(finish.identity.split("@")[0]) for finish in finished)
    again = repeated(diary.work())
    measured(
        f"{wall:.1f} s after the kills; {len(lost)} steps were in flight there, {len(again)} were repeated; "
        f"steps by worker: {sorted(by_worker.values())}"
    )
    assert set(again) <= {work.task_id for work in diary.work() if work.pid in _pids(killed)}, "others were repeated"
    assert set(by_worker) >= _pids(workers[2:]), "not every worker that lived on took part"
    assert wall < WALL_SECONDS


async def test_many_workers_are_replaced_by_another_build_while_runs_are_open(
    client: Client, world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Open runs end on the build that they began on, later ones begin and end on the next, whatever happens to workers.

    The open runs are held in their middle until the later ones have ended; then one of their workers is killed and one
    told to leave.
    """
    gates = Gates(ground.folder)
    gates.close([HELD])
    deployment = ground.task_queue
    old = [ground.worker(**SMALL, **_build(deployment, "a")) for _ in range(WORKERS // 2)]
    await _made_current(client, deployment, "a")
    phases = [labour(SLOTS, 0.1), _held(SLOTS), labour(SLOTS, 0.1, "last-")]
    pinned = [await world.start("Phased", phases) for _ in old]
    await wait_until("the workers of the first build are full", partial(_are_held, diary, old), START_SECONDS)

    began = time.time()
    new = [ground.worker(**SMALL, **_build(deployment, "b")) for _ in range(WORKERS // 2)]
    await _made_current(client, deployment, "b")
    later = [await world.start("Phased", phases[::2]) for _ in new]
    reports = [await report_of(run) for run in later]
    held = await _are_held(diary, old)
    old[0].kill()
    old[1].signal(signal.SIGTERM)
    gates.close([])
    reports += [await report_of(run) for run in pinned]
    wall = time.time() - began
    for worker in old[2:]:
        worker.signal(signal.SIGTERM)
    codes = [await worker.ended() for worker in old[1:]]

    assert held, "the runs of the first build were not open while the later ones ran"
    assert codes == [0, 0, 0], f"the workers of the first build exited {codes}"
    assert [len(report.outcomes) for report in reports] == [2 * SLOTS] * len(later) + [3 * SLOTS] * len(pinned)
    assert all(outcome.success for report in reports for outcome in report.outcomes), "steps failed"
    for runs, build, workers in ((pinned, "a", old), (later, "b", new)):
        for run in runs:
            assert await _builds_of(run) == {build}
            took = {int(finish.identity.split("@")[0]) for finish in await lawful_finishes(diary, run)}
            assert took <= _pids(workers), f"a run of build {build!r} had steps on workers of the other"
    times = Counter(work.key for work in diary.work())
    again = {key for key, count in times.items() if count > 1}
    measured(f"{wall:.1f} s from the new build to the last end; {len(again)} of {len(times)} steps were repeated")
    assert again == {work.key for work in held if work.pid == old[0].pid}, "others than the lost steps were repeated"
    assert wall < WALL_SECONDS


def _held(count: int) -> list[AgentStepSpec]:
    return [AgentStepSpec(task_id=f"held-{number}", agent="scribe", prompt=HELD) for number in range(count)]


def _pids(workers: Iterable[Process]) -> set[int]:
    return {worker.pid for worker in workers}


async def _all_take_part(diary: Diary, workers: list[Process]) -> bool:
    return _pids(workers) <= {work.pid for work in in_flight(diary)}


async def _are_held(diary: Diary, workers: list[Process]) -> list[Work]:
    """The steps at the gate, once they fill every slot of these workers."""
    held = [work for work in in_flight(diary) if work.pid in _pids(workers) and work.task_id.startswith(HELD)]
    return held if len(held) == SLOTS * len(workers) else []


def _build(deployment: str, build_id: str) -> dict[str, str]:
    return {"TEMPORAL_DEPLOYMENT_NAME": deployment, "TEMPORAL_WORKER_BUILD_ID": build_id}


async def _made_current(client: Client, deployment: str, build_id: str) -> None:
    """Send new runs to a build, as soon as the server has heard from a worker of it, and wait until they go there.

    The server tells its task queues after it has answered: until then runs still begin on the build before.
    """
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=deployment, build_id=build_id, identity="test"
    )

    async def accepted() -> bool:
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                raise
            return False  # no worker of it has polled each task queue yet
        return True

    async def settled() -> bool:
        asked = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=deployment)
        told = (await client.workflow_service.describe_worker_deployment(asked)).worker_deployment_info
        state = told.routing_config_update_state
        return state == RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_COMPLETED

    await wait_until(f"build {build_id!r} is current", accepted, START_SECONDS)
    await wait_until(f"every task queue knows of build {build_id!r}", settled, START_SECONDS)


async def _builds_of(run: WorkflowHandle[Any, Any]) -> set[str]:
    """The builds that did a run's workflow tasks."""
    return {
        event.workflow_task_completed_event_attributes.deployment_version.build_id
        async for event in run.fetch_history_events()
        if event.HasField("workflow_task_completed_event_attributes")
    }
