"""Pictures of a graph, and the commands that judge and draw one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import get_args

import pytest

import starter
from runtime.commands.drawing import Drawing, draw
from workflows.graph.definition import PatternStep
from workflows.graph.pictures import STATE_FILLS, STATE_TEXTS, dot, mermaid
from workflows.graph.verify import load_graph, verify_graph
from workflows.graph.walk import StageState, Walk

GRAPH = """\
id: release
name: Release
start: check
stages:
  - id: check
    name: Check "all" | of it
    step: {type: pattern, pattern: vote, task: Is it good?, agents: [{name: a}, {name: b}]}
    compensation: {type: stage_ref, stage_id: tidy}
  - id: ask
    step: {type: approval, prompt: Go?, output_key: go}
    compensation: {type: proposal, proposal: {actions: [{type: tool_call, tool: tell}]}}
  - id: tidy
    step: {type: proposal, proposal: {actions: [{type: tool_call, tool: sweep}]}}
edges:
  - {from: check, to: ask, label: good, conditions: [{key: stage.check.answer, value: "yes"}]}
  - {from: ask, to: tidy, conditions: [{key: go.at, operator: not_exists}, {key: go.n, operator: gte, value: 2}]}
"""

MERMAID = """\
flowchart TD
    s0("Check #34;all#34; #124; of it<br/>vote, 2 agents"):::pattern
    s1{{"ask<br/>approval"}}:::approval
    s2["tidy<br/>1 action"]:::proposal
    u1["undo ask<br/>tell"]:::proposal
    start((start))
    start --> s0
    s0 -->|"good: stage.check.answer = #34;yes#34;"| s1
    s1 -->|"go.at not exists and go.n ≥ 2"| s2
    s0 -.->|"undone by"| s2
    s1 -.->|"undone by"| u1
    classDef pattern fill:#dbeafe,stroke:#1f2937,color:#1f2937
    classDef approval fill:#fef3c7,stroke:#1f2937,color:#1f2937
    classDef proposal fill:#dcfce7,stroke:#1f2937,color:#1f2937
"""

DOT = """\
digraph "release" {
    node [fontname="sans-serif", color="#1f2937", fontcolor="#1f2937"]
    edge [fontname="sans-serif", fontsize=10, color="#1f2937"]
    s0 [label="Check \\"all\\" | of it\\nvote, 2 agents", shape=box, style="rounded,filled", fillcolor="#dbeafe"]
    s1 [label="ask\\napproval", shape=hexagon, style="filled", fillcolor="#fef3c7"]
    s2 [label="tidy\\n1 action", shape=box, style="filled", fillcolor="#dcfce7"]
    u1 [label="undo ask\\ntell", shape=box, style="filled", fillcolor="#dcfce7"]
    start [label="", shape=point, color="#1f2937"]
    start -> s0
    s0 -> s1 [label="good: stage.check.answer = \\"yes\\""]
    s1 -> s2 [label="go.at not exists and go.n ≥ 2"]
    s0 -> s2 [label="undone by", style=dashed]
    s1 -> u1 [label="undone by", style=dashed]
}
"""


WALK = Walk(
    "compensated",
    {"check": "compensated", "ask": "compensation_failed", "tidy": "succeeded"},
    {"check": 2, "ask": 1},
    frozenset({("check", "ask")}),
)

MERMAID_OF_RUN = """\
flowchart TD
    s0("Check #34;all#34; #124; of it<br/>vote, 2 agents<br/>↩ compensated, ran 2 times"):::compensated
    s1{{"ask<br/>approval<br/>✗ compensation failed"}}:::compensation_failed
    s2["tidy<br/>1 action<br/>✓ succeeded, as a compensation"]:::succeeded
    u1["undo ask<br/>tell<br/>✗ failed"]:::failed
    start((start))
    start ==> s0
    s0 ==>|"good: stage.check.answer = #34;yes#34;"| s1
    s1 -->|"go.at not exists and go.n ≥ 2"| s2
    s0 -.->|"undone by"| s2
    s1 -.->|"undone by"| u1
    subgraph legend["Run ship-1: compensated"]
    l0["✓ succeeded"]:::succeeded
    l1["✗ failed"]:::failed
    l2["↩ compensated"]:::compensated
    l3["✗ compensation failed"]:::compensation_failed
    bold["bold: the way it went"]:::not_reached
    end
    classDef compensated fill:#e9d5ff,stroke:#1f2937,color:#1f2937
    classDef compensation_failed fill:#f0abfc,stroke:#1f2937,color:#1f2937
    classDef succeeded fill:#bbf7d0,stroke:#1f2937,color:#1f2937
    classDef failed fill:#fca5a5,stroke:#1f2937,color:#1f2937
    classDef not_reached fill:#ffffff,stroke:#1f2937,color:#1f2937
    linkStyle 3,4 stroke-width:3px
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("release.yaml").write_text(GRAPH)


def test_picture_in_both_languages() -> None:
    """Stages by type, edges with their conditions, compensations dashed; hostile labels stay labels."""
    graph = load_graph(GRAPH)
    assert [mermaid(graph), dot(graph)] == [MERMAID, DOT]


def test_picture_of_a_run() -> None:
    """Stages say and show how they stand, how often they ran and what undid them; the way it went is bold."""
    graph = load_graph(GRAPH)
    assert mermaid(graph, walks=[WALK], caption="Run ship-1: compensated") == MERMAID_OF_RUN
    drawn = dot(graph, walks=[WALK], caption="Run ship-1: compensated").splitlines()
    assert [line.strip() for line in drawn if "penwidth" in line] == [
        "start -> s0 [penwidth=3]",
        's0 -> s1 [label="good: stage.check.answer = \\"yes\\"", penwidth=3]',
        's0 -> s2 [label="undone by", style=dashed, penwidth=3]',
        's1 -> u1 [label="undone by", style=dashed, penwidth=3]',
    ]
    assert '    subgraph cluster_legend { label="Run ship-1: compensated"' in drawn


def test_picture_of_a_chain() -> None:
    """Each graph of a chain has a frame that says how it stands; names do not meet."""
    graph = load_graph(GRAPH)
    lines = mermaid(graph, graph, walks=[Walk("completed"), Walk("running")]).splitlines()
    frames = [line.strip() for line in lines if line.strip().startswith(("subgraph", "g0 ", "g0start", "g1start"))]
    assert frames == [
        'subgraph g0["1 of 2, Release: completed"]',
        "g0start((start))",
        "g0start --> g0s0",
        'subgraph g1["2 of 2, Release: running"]',
        "g1start((start))",
        "g1start --> g1s0",
        "g0 --> g1",
        'subgraph legend[""]',
    ]
    assert (
        "    g0s2 -> g1start [ltail=cluster_g0, lhead=cluster_g1]" in dot(graph, graph, walks=[WALK, WALK]).splitlines()
    )


def test_every_state_has_its_words_and_colour() -> None:
    """No state is left without either, and no two look the same."""
    assert set(get_args(StageState)) == STATE_TEXTS.keys() == STATE_FILLS.keys()
    assert len(set(STATE_FILLS.values())) == len(STATE_FILLS)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_picture_of_a_run_is_drawn(tmp_path: Path) -> None:
    """Graphviz takes a picture of a run, of one graph and of a chain."""
    graph = load_graph(GRAPH)
    for graphs in ((graph,), (graph, graph)):
        draw(Drawing(graphs, (WALK,) * len(graphs), "Run <1>"), None, tmp_path / "run.svg")
        assert "Run &lt;1&gt;" in (tmp_path / "run.svg").read_text()


def test_graph_prints_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    """`perdure graph FILE` prints Mermaid; with -o the suffix decides."""
    assert starter.invoke(["graph", "release.yaml"]) == 0
    assert capsys.readouterr() == (MERMAID, "")
    assert starter.invoke(["graph", "release.yaml", "-o", "out.md"]) == 0
    assert capsys.readouterr() == ("", "out.md\n")
    assert Path("out.md").read_text() == f"```mermaid\n{MERMAID}```\n"


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graph_draws_svg(capsys: pytest.CaptureFixture[str]) -> None:
    """Graphviz takes what is written for it."""
    assert starter.invoke(["graph", "release.yaml", "-o", "out.svg"]) == 0
    assert "<svg" in Path("out.svg").read_text()
    assert capsys.readouterr() == ("", "out.svg\n")


def test_graph_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """`--schema` needs no file."""
    assert starter.invoke(["graph", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/$defs/GraphDefinition"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["graph"], "perdure graph takes a FILE to draw, --run RUN, or --schema; one of them.\n"),
        (["graph", "absent.yaml"], "'absent.yaml' cannot be read (No such file or directory).\n"),
        (
            ["graph", "broken.json"],
            "broken.json:1:2: this is no JSON (Expecting property name enclosed in double quotes).\n",
        ),
        (
            ["graph", "release.yaml", "-o", "out.png"],
            "--output is 'out.png', and its suffix says no format. The formats are .svg, .dot, .mmd and .md.\n",
        ),
        (
            ["graph", "release.yaml", "-o", "no/such/out.mmd"],
            "'no/such/out.mmd' cannot be written (No such file or directory).\n",
        ),
        (["verify", "latin.yaml"], "'latin.yaml' is no UTF-8 text (byte 4).\n"),
        (
            ["verify", "release.yaml", "--agents", "none.toml"],
            "none.toml: the file cannot be read: No such file or directory.\n",
        ),
    ],
    ids=["nothing", "absent", "broken", "format", "folder", "latin", "agents"],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake of the caller exits 2 with what was found."""
    Path("broken.json").write_text("{]")
    Path("latin.yaml").write_bytes(b"id: \xe9")
    assert starter.invoke(arguments) == 2
    assert capsys.readouterr() == ("", message)


def test_graph_without_graphviz_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SVG needs Graphviz, and its absence is told."""
    monkeypatch.setenv("PATH", os.devnull)
    assert starter.invoke(["graph", "release.yaml", "-o", "out.svg"]) == 2
    assert capsys.readouterr().err == (
        "SVG is drawn by Graphviz, and its program 'dot' is not on PATH. Install Graphviz, or write .mmd.\n"
    )


def test_verify_tells_what_a_run_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A valid graph: its stages in waves, each with its agent steps."""
    assert starter.invoke(["verify", "release.yaml"]) == 0
    assert capsys.readouterr() == (
        "release.yaml: valid\n"
        "  3 stages in 3 waves, 2 agent steps in a run\n"
        "  wave 1: check (2 agent steps)\n"
        "  wave 2: ask (0 agent steps)\n"
        "  wave 3: tidy (0 agent steps)\n",
        "",
    )


def test_verify_counts_doubts_as_errors_unless_lenient(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt field exits 2, and 0 with --lenient; both tell it with its place."""
    Path("doubt.yaml").write_text(GRAPH.replace("label: good", "lable: good"))
    assert [starter.invoke(["verify", "doubt.yaml"]), starter.invoke(["verify", "--lenient", "doubt.yaml"])] == [2, 0]
    told = "doubt.yaml:15:28: doubt: 'lable' is not known and is ignored. Did you mean 'label'?\n"
    lines = capsys.readouterr().out
    assert lines.count(f"{told}doubt.yaml: doubtful, 1 doubt; --lenient accepts that\n") == 1
    assert lines.count(f"{told}doubt.yaml: valid, 1 doubt\n") == 1


def test_verify_knows_the_agents_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """With --agents, an agent and a tool that are not in the file are doubts."""
    Path("agents.toml").write_text('[agents.a]\nexecutor = "echo"\n')
    assert starter.invoke(["verify", "release.yaml", "--agents", "agents.toml"]) == 2
    lines = capsys.readouterr().out.splitlines()[:3]
    assert lines[0] == (
        "release.yaml:7:88: doubt: stage 'check': agent 'b' is not in the registry, and no model is set for it. "
        "The agents are 'a'. Write it into agents.toml as [agents.b], or set 'model' in its metadata or "
        "'default_model' in agents.toml."
    )
    assert [line.partition(". ")[0] for line in lines[1:]] == [
        "release.yaml:11:81: doubt: stage 'ask': action 'action-0': tool 'tell' is not registered",
        "release.yaml:13:73: doubt: stage 'tidy': action 'action-0': tool 'sweep' is not registered",
    ]


def test_verify_takes_files_as_a_chain(capsys: pytest.CaptureFixture[str]) -> None:
    """With --chain a graph may refer to what those before it leave; without, each file stands alone."""
    Path("next.yaml").write_text(GRAPH.replace("Is it good?", '"{{stage.tidy.answer}} and {{unheard_of}}"'))
    assert starter.invoke(["verify", "release.yaml", "next.yaml", "--chain"]) == 2
    chained = [line for line in capsys.readouterr().out.splitlines() if ": doubt: " in line]
    assert chained == [
        "next.yaml:7:48: doubt: stage 'check': '{{unheard_of}}' has no value: nothing in this graph produces "
        "'unheard_of'."
    ]
    Path("last.yaml").write_text("id: [")
    assert starter.invoke(["verify", "last.yaml", "release.yaml", "--chain"]) == 2
    assert "last.yaml: invalid, 1 error\nrelease.yaml: valid" in capsys.readouterr().out
    Path("again.yaml").write_text(GRAPH.replace("id: tidy", "id: wipe").replace("tidy", "wipe"))
    Path("after.yaml").write_text(GRAPH.replace("Is it good?", '"{{stage.wipe.answer}}"'))
    codes = [starter.invoke(["verify", "again.yaml", "after.yaml", *chain]) for chain in ([], ["--chain"])]
    assert codes == [2, 0]


def test_edge_in_the_words_of_python_is_no_doubt() -> None:
    """An edge that says source and target loads, so nothing doubts it; what is wrong with it has a place."""
    written = GRAPH.replace("from: check, to: ask", "source: check, target: ask")
    assert (load_graph(written).edges[0].target, verify_graph(written).issues) == ("ask", ())
    (issue,) = verify_graph(written.replace("target: ask", "target: none")).with_severity("error")
    assert (issue.line, issue.message) == (
        15,
        "edge 'check' -> 'none' leads to no stage. The stages are 'check', 'ask' and 'tidy'.",
    )


def test_agent_without_turns_has_one() -> None:
    """`max_turns: 0`, which the original engine accepts, counts as 1, and verify says so."""
    written = GRAPH.replace("{name: a}", "{name: a, max_turns: 0}")
    step = load_graph(written).stages[0].step
    assert isinstance(step, PatternStep)
    assert [agent.max_turns for agent in step.agents] == [1, 10]
    assert [(issue.severity, issue.line, issue.message) for issue in verify_graph(written).issues] == [
        (
            "warning",
            7,
            "stage 'check': 'max_turns' is 0, and an agent that is asked has one turn: it counts as 1.",
        )
    ]


def test_verify_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One verdict for each file, and the worst of them decides the exit code."""
    Path("broken.json").write_text("{]")
    assert starter.invoke(["verify", "release.yaml", "broken.json", "--json"]) == 2
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["file"], good["valid"], good["reachable_stages"], good["waves"]) == (
        "release.yaml",
        True,
        ["check", "ask", "tidy"],
        [["check"], ["ask"], ["tidy"]],
    )
    assert good["estimate"] == {
        "least": 2,
        "most": 2,
        "stages": {"check": {"least": 2, "most": 2}, "ask": {"least": 0, "most": 0}, "tidy": {"least": 0, "most": 0}},
    }
    assert bad == {
        "file": "broken.json",
        "valid": False,
        "issues": [
            {
                "severity": "error",
                "stage_id": None,
                "message": "this is no JSON (Expecting property name enclosed in double quotes).",
                "file": "broken.json",
                "line": 1,
                "column": 2,
            }
        ],
        "reachable_stages": [],
        "unreachable_stages": [],
        "has_cycles": False,
        "estimate": None,
        "waves": [],
    }


def test_verify_refuses_what_no_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A graph that `perdure run` would not start for its size is not valid here."""
    Path("large.yaml").write_text(GRAPH + f"\nmetadata: {{text: {'x' * 2_000_000}}}\n")
    assert starter.invoke(["verify", "large.yaml"]) == 2
    told = "the definition is 2.0 MB and the limit is 1.9 MB. Shorten it, or pass a reference to it."
    assert capsys.readouterr().out.startswith(f"large.yaml:1:1: error: {told}\n")
