"""The examples that are stage graphs, each served as its README says, in a copy of its folder."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError

import examples
from activities.registry import Registry
from runtime.settings import Settings
from tests.support import World, failure_of, wait_until
from worker import build_worker
from workflows import wire
from workflows.graph.reading import parse_text
from workflows.graph.step_checks import Served
from workflows.graph.verify import verify_graph

EXAMPLES = Path(str(examples.__file__)).parent
GRAPHS = {
    "review_deploy": "deploy.yaml",
    "research": "research.json",
    "triage": "triage.yaml",
    "release": "release.yaml",
}
SOON_MS = 300
# A deadline that comes within a test; the graphs themselves give people a day.


@dataclass(frozen=True)
class Example:
    """An example under way: its workspace, and the graph as a caller sends it."""

    world: World
    workspace: Path
    graph: dict[str, Any]

    def stage(self, name: str) -> dict[str, Any]:
        """A stage of the graph, to be changed by a test."""
        found: dict[str, Any] = next(stage for stage in self.graph["stages"] if stage["id"] == name)
        return found

    async def start(self, **state: Any) -> WorkflowHandle[Any, Any]:
        """Start the graph with a part of its initial state replaced."""
        graph = {**self.graph, "initial_state": {**self.graph["initial_state"], **state}}
        return await self.world.start(wire.STAGE_GRAPH_WORKFLOW, graph)

    async def run(self, **state: Any) -> dict[str, Any]:
        """The result of a run that completes."""
        result: dict[str, Any] = await (await self.start(**state)).result()
        return result

    def output(self) -> dict[str, str]:
        """Every file that runs have left, by its path below `output`."""
        folder = self.workspace / "output"
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@asynccontextmanager
async def serving(client: Client, tmp_path: Path, name: str) -> AsyncIterator[Example]:
    """A worker that serves an example's agents and tools in a copy of its folder."""
    workspace = tmp_path / name
    shutil.copytree(EXAMPLES / name, workspace, ignore=shutil.ignore_patterns("output", "__pycache__"))
    task_queue = f"{name}-{uuid.uuid4()}"
    settings = Settings(task_queue=task_queue, workspace=workspace, drain_seconds=1)
    graph = parse_text((workspace / GRAPHS[name]).read_text(), GRAPHS[name]).value
    async with build_worker(client, settings, registry=Registry.load(workspace / "agents.toml")):
        yield Example(World(client, task_queue), workspace, graph)


async def failed_result(handle: WorkflowHandle[Any, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """Type, message and result of a run that did not complete."""
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError), repr(cause)
    return cause.type, cause.message, cause.details[0]


def stages(result: Mapping[str, Any]) -> list[str]:
    """The stages that a run went through; a failed one behind a `!`."""
    return [("" if stage["status"] == "succeeded" else "!") + stage["stage_id"] for stage in result["stages"]]


async def answer(handle: WorkflowHandle[Any, Any], **response: str) -> str:
    """Answer the question that a run asks; the question."""

    async def asked() -> list[dict[str, Any]]:
        open_questions: list[dict[str, Any]] = await handle.query(wire.APPROVALS_QUERY)
        return open_questions

    (question,) = await wait_until("the run asks", asked)
    await handle.execute_update(wire.RESOLVE_APPROVAL_UPDATE, {"id": question["id"], "response": response})
    prompt: str = question["prompt"]
    return prompt


@pytest.mark.parametrize("name", GRAPHS)
def test_example_verifies_without_a_word(name: str) -> None:
    """Each graph names only agents, tools and keys that it has."""
    registry = Registry.load(EXAMPLES / name / "agents.toml")
    served = Served(registry.names(), registry.tools.names())
    text = (EXAMPLES / name / GRAPHS[name]).read_text()
    assert [str(issue) for issue in verify_graph(text, file=GRAPHS[name], served=served).issues] == []


async def test_review_deploy_stages_and_switches(client: Client, tmp_path: Path) -> None:
    """A patch that all approve is applied to a copy, tested there, and switched to."""
    async with serving(client, tmp_path, "review_deploy") as example:
        result = await example.run()
    output = example.output()
    assert stages(result) == ["read", "review", "stage", "label", "check", "switch"]
    assert result["final_state"]["stage.check.answer"] == "5 tests passed in output/releases/1.5.0\n"
    assert output["CURRENT"] == "1.5.0\n"
    assert output["releases/1.5.0/VERSION"] == "1.5.0\n"
    assert "Votes: secrets approve, safety approve, upkeep approve." in output["releases/1.5.0/RELEASE.md"]
    assert "def discounted(net: int, percent: int) -> int:" in output["releases/1.5.0/prices.py"]
    assert "discounted" not in (example.workspace / "input/service/prices.py").read_text()


async def test_review_deploy_removes_what_it_staged_when_the_tests_fail(client: Client, tmp_path: Path) -> None:
    """A patch that the reviewers let pass and its tests do not leaves nothing behind."""
    async with serving(client, tmp_path, "review_deploy") as example:
        kind, _, result = await failed_result(await example.start(patch="input/rounding.patch"))
    assert (kind, stages(result)) == ("compensated", ["read", "review", "stage", "label", "!check"])
    (checked,) = result["stages"][-1]["output"]["outputs"]
    assert "test_prices.Prices.test_gross_rounds_half_up failed" in checked["error"]
    assert [(each["for_stage_id"], each["status"]) for each in result["compensations"]] == [("stage", "compensated")]
    assert example.output() == {}


async def test_review_deploy_leaves_a_release_of_somebody_else_alone(client: Client, tmp_path: Path) -> None:
    """A version that is staged already is refused, and not removed."""
    async with serving(client, tmp_path, "review_deploy") as example:
        await example.run()
        before = example.output()
        kind, message, _ = await failed_result(await example.start())
    assert kind == "failed"
    assert message.endswith("release '1.5.0' is staged already. Take another version, or remove it first.")
    assert example.output() == before


async def test_review_deploy_tells_why_a_patch_was_rejected(client: Client, tmp_path: Path) -> None:
    """The reviewers of a rejected patch write down what they found, without the secret that they found."""
    async with serving(client, tmp_path, "review_deploy") as example:
        result = await example.run(patch="input/export.patch")
    assert stages(result) == ["read", "review", "findings", "report"]
    assert example.output() == {
        "review.md": """# input/export.patch was not released

[secrets]
- export.py: a credential is written down: `API_KEY = "…"`

[safety]
- export.py: a shell reads the command: `takings = subprocess.run(f"…", shell=True, capture_output=True)`
- export.py: eval runs whatever it is given: `return eval(formula)`
- export.py: a bare except hides every fault: `except:`

[upkeep]
- export.py: no test came with it; a change of test_export.py was expected
- export.py: a print was left behind: `print(takings.stdout)`
"""
    }


async def test_research_publishes_the_brief_that_its_editor_approved(client: Client, tmp_path: Path) -> None:
    """The first draft is too long, the second is approved; the study of two streets counts for nothing."""
    async with serving(client, tmp_path, "research") as example:
        result = await example.run()
    assert stages(result) == ["studies", "debate", "brief", "publish"]
    outputs = result["stages"][2]["output"]["outputs"]
    assert [each["name"] for each in outputs] == ["writer", "editor", "writer", "editor"]
    assert outputs[1]["answer"].endswith("at most 60 are wanted. Give a sentence to each measure.")
    brief = example.output()["brief.md"]
    assert "Collisions: better, -23 to -8 % (alder-street.md, northgate.md, riverside.md, harbour-road.md)." in brief
    assert (
        "Set aside:\n- collisions -70 % (mill-lane.md, 2 streets)\n- walking +44 % (mill-lane.md, 2 streets)" in brief
    )


async def test_research_shelves_what_was_never_approved(client: Client, tmp_path: Path) -> None:
    """A limit that nobody can keep ends the rounds, and the last draft is kept with the last objection."""
    async with serving(client, tmp_path, "research") as example:
        result = await example.run(documents=["input/northgate.md", "input/gone.md"], max_words=10)
    assert stages(result) == ["studies", "debate", "brief", "shelve"]
    assert [each.get("error") is None for each in result["stages"][0]["output"]["outputs"]] == [True, False, True]
    unapproved = example.output()["unapproved.md"]
    assert "[max supervision rounds reached] The brief has 21 words; at most 10 are wanted." in unapproved
    assert "Journey time: worse, +2 % (northgate.md)." in unapproved


async def test_research_fails_without_a_study(client: Client, tmp_path: Path) -> None:
    """Where no study can be read there is nothing to argue about."""
    async with serving(client, tmp_path, "research") as example:
        kind, _, result = await failed_result(await example.start(documents=["input/gone.md"]))
    assert (kind, stages(result), example.output()) == ("failed", ["!studies"], {})


async def test_triage_hands_out_what_is_new_and_only_once(client: Client, tmp_path: Path) -> None:
    """Five reports are four incidents; the pager refuses the table and takes the headline; what is old stays quiet."""
    async with serving(client, tmp_path, "triage") as example:
        example.stage("fresh")["step"]["store"] = str(uuid.uuid4())
        result = await example.run()
        output = example.output()
        again = await example.run()
        unchanged = example.output()
        tuesday = await example.run(**json.loads((example.workspace / "input/tuesday.json").read_text()))
    assert stages(result) == ["fresh", "assess", "rank", "headline", "table", "short"]
    assert [row.split(" | ")[:2] for row in output["triage.md"].splitlines()[2:]] == [
        ["| critical", "4711"],
        ["| critical", "4714"],
        ["| high", "4715"],
        ["| low", "4713"],
    ]
    paged = [json.loads(line)["text"] for line in output["pager.jsonl"].splitlines()]
    assert paged == ["2 critical, 1 high, 1 low. First: 4711 (checkout), payments."]
    assert result["stages"][4]["output"]["results"][0]["results"][0]["error"].startswith(
        "the pager takes 160 characters"
    )
    assert stages(again) == ["fresh"]
    assert again["final_state"]["unseen"] == []
    assert unchanged == output
    assert [incident["id"] for incident in tuesday["final_state"]["unseen"]] == [4716]
    assert tuesday["final_state"]["stage.headline.answer"] == "1 medium. First: 4716 (orders database), platform."


async def test_triage_says_what_it_could_not_assess(client: Client, tmp_path: Path) -> None:
    """A report that is gone sends the run another way, and the incident to a person."""
    gone = {"id": 4720, "service": "search", "fault": "no answer", "report": "input/4720.txt"}
    async with serving(client, tmp_path, "triage") as example:
        example.stage("fresh")["step"]["store"] = str(uuid.uuid4())
        result = await example.run(incidents=[gone])
    assert stages(result) == ["fresh", "!assess", "unassessed"]
    told = example.output()["unassessed.md"]
    assert told.startswith("1 of 1 items failed; item 0: ")
    assert told.endswith(f"Look at these by hand:\n\n[{json.dumps(gone, separators=(',', ':'))}]\n")


async def test_triage_fails_where_no_sink_takes_anything(client: Client, tmp_path: Path) -> None:
    """With a file where the folder should be nothing can be handed out, and the run says so."""
    async with serving(client, tmp_path, "triage") as example:
        example.stage("fresh")["step"]["store"] = str(uuid.uuid4())
        (example.workspace / "output").write_text("in the way")
        kind, message, result = await failed_result(await example.start())
    assert (kind, stages(result)) == ("failed", ["fresh", "assess", "rank", "headline", "!table"])
    assert ": every sink failed: " in message


async def test_release_goes_where_a_person_says(client: Client, tmp_path: Path) -> None:
    """Signed off for stable it is published there; a second time it is refused, and the run tells that."""
    async with serving(client, tmp_path, "release") as example:
        first = await example.start()
        prompt = await answer(first, channel="stable")
        result = await first.result()
        published = example.output()
        second = await example.start()
        await answer(second, channel="stable")
        refused = await second.result()
    assert prompt.startswith("harbourmaster 2.4.0 is a minor version. Where does it go?\n\n### Added\n- Berths can be")
    assert stages(result) == ["announce", "notes", "judge", "sign_off", "publish"]
    assert published["status.md"] == "harbourmaster 2.4.0 is on stable.\n"
    assert "A ship of exactly the berth's length is let in." in json.loads(published["stable/2.4.0.json"])["notes"]
    assert stages(refused) == ["announce", "notes", "judge", "sign_off", "!publish", "failed"]
    assert example.output() == {
        "stable/2.4.0.json": published["stable/2.4.0.json"],
        "status.md": (
            "harbourmaster 2.4.0 was not published: stage 'proposal' failed: "
            "2.4.0 is on stable already, and what is published never changes\n"
        ),
    }


async def test_release_goes_to_beta_when_nobody_answers(client: Client, tmp_path: Path) -> None:
    """The deadline gives the default answer."""
    async with serving(client, tmp_path, "release") as example:
        example.stage("sign_off")["step"]["timeout_ms"] = SOON_MS
        result = await example.run()
    assert result["final_state"]["verdict"] == {"channel": "beta"}
    assert sorted(example.output()) == ["beta/2.4.0.json", "status.md"]


async def test_release_is_called_off_when_nobody_overrules(client: Client, tmp_path: Path) -> None:
    """A number that does not fit its changes asks a person; silence fails, and what was announced is taken back."""
    async with serving(client, tmp_path, "release") as example:
        example.stage("overrule")["step"]["timeout_ms"] = SOON_MS
        kind, message, result = await failed_result(await example.start(previous="2.3.1", version="2.3.2"))
    assert (kind, stages(result)) == ("compensated", ["announce", "notes", "!judge", "!overrule"])
    assert message.endswith(f"approval 'overrule' was not answered within {SOON_MS}ms")
    assert example.output() == {"status.md": "The release of harbourmaster 2.3.2 was called off.\n"}


async def test_release_is_overruled_by_a_person(client: Client, tmp_path: Path) -> None:
    """A person may release all the same, or not."""
    ways = {}
    async with serving(client, tmp_path, "release") as example:
        for go in ("yes", "no"):
            handle = await example.start(previous="2.3.1", version="2.3.2")
            await answer(handle, go=go)
            ways[go] = stages(await handle.result())
    begun = ["announce", "notes", "!judge", "overrule"]
    assert ways == {"yes": [*begun, "stable", "publish"], "no": [*begun, "decline"]}
    assert sorted(example.output()) == ["stable/2.3.2.json", "status.md"]
    assert example.output()["status.md"] == "harbourmaster 2.3.2 was declined.\n"
