"""One scenario for each way that a pattern schedules steps, for the recordings of the replay ring."""

from __future__ import annotations

from typing import Any

from tests.pattern_programs import AGENTS, Patterned, Unhandled, Voting, agent, fails, plan, says

WORKFLOWS: tuple[type, ...] = (Patterned, Voting, Unhandled)

_DELEGATE = {"delegate": [{"specialist": "alice", "subtask": "paint"}, {"specialist": "eve", "subtask": "spy"}]}
_FINDING = {"criterion": "tested", "passed": False, "severity": "major"}

SCENARIOS: dict[str, tuple[str, Any]] = {
    "pattern-swarm-parallel": (
        "Patterned",
        plan("swarm_parallel", [says("alice", "red"), fails("bob"), says("carol", "blue")], synthesizer_index=2),
    ),
    "pattern-swarm-sequential": ("Patterned", plan("swarm_sequential", [says("alice", "red"), agent("bob")])),
    "pattern-swarm-debate": (
        "Patterned",
        plan("swarm_debate", [says("alice", "red"), says("bob", "blue")], rounds=3, synthesizer_index=0),
    ),
    "pattern-pipeline": ("Patterned", plan("pipeline", [says("alice", "red"), fails("bob"), agent("carol")])),
    "pattern-supervisor": (
        "Patterned",
        plan(
            "supervisor",
            [says("alice", "a draft"), agent("boss", plays={"boss_round_1": "shorter", "boss_round_2": "APPROVED"})],
        ),
    ),
    "pattern-delegator": (
        "Patterned",
        plan("delegator", [agent("lead", plays={"lead_turn_1": _DELEGATE}), agent("alice")]),
    ),
    "pattern-map-reduce": (
        "Patterned",
        plan("map_reduce", [agent("mapper"), agent("reducer")], items=list(range(12)), max_concurrent=3),
    ),
    "pattern-vote": (
        "Patterned",
        plan("vote", [says("alice", "a"), says("bob", "A"), says("carol", "b")], quorum=0.5),
    ),
    "pattern-vote-from-python": ("Voting", 0.5),
    "pattern-fleet": (
        "Patterned",
        plan("fleet", [agent("alice", task="paint"), says("bob", {"sleep": 60.0})], timeout_secs=1),
    ),
    "pattern-review": (
        "Patterned",
        plan(
            "adversarial_review",
            [says("reviewer", {"passed": True, "findings": [_FINDING]})],
            review_key="draft",
            state={"draft": "text"},
        ),
    ),
    "pattern-review-without-work": (
        "Patterned",
        plan("adversarial_review", [says("reviewer", "PASS")], review_key="draft"),
    ),
    "pattern-tournament": (
        "Patterned",
        plan(
            "tournament",
            [
                *(says(name, name) for name in ("alice", "bob", "carol")),
                agent("judge", plays={"judge_match_1": {"winner": "bob"}, "judge_match_2": {"winner": "eve"}}),
            ],
        ),
    ),
    "pattern-failed": ("Unhandled", [fails("alice"), says("judge", "x")]),
}
"""Workflow and argument by name. They run with the agents of `AGENTS`."""

__all__ = ["AGENTS", "SCENARIOS", "WORKFLOWS"]
