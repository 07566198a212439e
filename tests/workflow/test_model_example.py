"""The example whose agents have a model, answered by its script, in a copy of its folder."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

import examples
from activities.registry import Registry
from examples.model_review.workflow import ModelReview
from runtime.settings import Settings
from tests.support import World, wait_until
from worker import build_worker
from workflows.wire import RESOLVE_APPROVAL_UPDATE

EXAMPLE = Path(str(examples.__file__)).parent / "model_review"
SCRIPT = "python:examples.model_review.scripted:answer"

REVIEW = """# Review

- `TOKEN = "tok-5f1c2b"`: a credential in the source is known to all who read it
- `settings = eval(options)`: whoever sets it runs their own code in the service
- no test comes with it"""


@pytest.fixture
async def world(client: Client, tmp_path: Path) -> AsyncIterator[tuple[World, Path]]:
    """A worker that serves the example as its README says, and the workspace."""
    workspace = tmp_path / "model_review"
    shutil.copytree(EXAMPLE, workspace, ignore=shutil.ignore_patterns("output", "__pycache__"))
    settings = Settings(
        task_queue=f"model-review-{uuid.uuid4()}", workspace=workspace, blobs=str(tmp_path / "blobs"), drain_seconds=1
    )
    registry = Registry.load(workspace / "agents.toml", default_model=SCRIPT, workspace=workspace)
    async with build_worker(client, settings, registry=registry, workflows=[ModelReview]):
        yield World(client, settings.task_queue), workspace


@pytest.mark.parametrize(
    ("decision", "posted", "told"),
    [
        ({"decision": "approve"}, [f"{REVIEW}\n"], '{"posted":"output/reviews/'),
        ({"decision": "deny", "message": "too harsh"}, [], "A person denied this call: too harsh"),
        (
            {"decision": "edit", "arguments": {"review": "Do not merge."}},
            ["Do not merge.\n"],
            'A person changed the arguments to {"review":"Do not merge."}.\n',
        ),
    ],
    ids=["approve", "deny", "edit"],
)
async def test_review_is_posted_as_a_person_says(
    world: tuple[World, Path], decision: dict[str, Any], posted: list[str], told: str
) -> None:
    """The reviewer uses its tool and asks its specialist; what becomes of the review is a person's to say."""
    serving, workspace = world
    handle = await serving.start("ModelReview", "input/upload.patch")

    async def asked() -> Any:
        return await handle.query("approvals")

    (question,) = await wait_until("the publisher asks", asked)
    await handle.execute_update(RESOLVE_APPROVAL_UPDATE, {"id": question["id"], "response": decision})
    review, post = await handle.result()
    assert (review["output"], review["usage"]["requests"], review["usage"]["tool_calls"]) == (REVIEW, 3, 1)
    assert post["output"].startswith(told)
    assert [file.read_text() for file in (workspace / "output").rglob("*.md")] == posted
    steps = (await handle.query("progress"))["steps"]
    assert [(step["step"], step["agent"]) for step in steps] == [
        ("c0.0:review", "reviewer"),
        ("c0.0:review.security-1", "security"),
        ("c1.0:post", "publisher"),
    ]
