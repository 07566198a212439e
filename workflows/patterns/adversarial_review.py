"""A fresh reviewer looks for what is wrong with a piece of work, and its findings decide.

Source: car-multi, AdversarialReview. Law: it fails closed. The verdict is computed from the findings, whatever the
reviewer says of it; work that is missing or empty, and a reply that is not the JSON which was asked for, do not pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from workflows.graph.conditions import as_text
from workflows.graph.results import ReviewFinding, ReviewOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, Reply, Schema, ask_one, failed, members, require_any
from workflows.patterns.configs import AdversarialReviewConfig, checked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "adversarial_review"

_FINDING: Schema = {
    "type": "object",
    "properties": {
        "criterion": {"type": "string"},
        "passed": {"type": "boolean"},
        "evidence": {"type": "string"},
        "severity": {"enum": ["blocker", "major", "minor", "info"]},
    },
    # Without its severity a finding would count as info, and a reviewer that forgot it would let everything pass.
    "required": ["criterion", "passed", "severity"],
}
REVIEW_SCHEMA: Schema = {
    "type": "object",
    "properties": {"passed": {"type": "boolean"}, "findings": {"type": "array", "items": _FINDING}},
    "required": ["passed", "findings"],
}

FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL | re.IGNORECASE)


async def adversarial_review(
    workflow: AgentWorkflow,
    agents: Agents,
    task: str,
    work: JsonValue = None,
    criteria: str | list[str] = "",
    review_key: str = "work",
) -> ReviewOutput:
    """The verdict of `agents[0]`, which sees the work and the criteria alone; without criteria the task is the one.

    `review_key` is how a finding calls work that is missing. Raises `PatternFailed` where the reviewer failed.
    """
    config = checked(KIND, AdversarialReviewConfig, {"criteria": criteria, "review_key": review_key})
    reviewer = members(KIND, agents)[0]
    judged_by = _criteria(config.criteria, task)
    if _is_empty(work):
        return _closed(reviewer.name, f"There is no work to review at {config.review_key!r}.")
    prompt = prompts.review(judged_by, as_text(work))
    reply = await ask_one(workflow, reviewer.question(prompt, schema=REVIEW_SCHEMA))
    if reply.is_malformed:
        return _closed(reviewer.name, f"The reviewer's reply is not the JSON asked for: {reply.output.error}")
    require_any([reply.output])
    findings = read(reply)
    if findings is None:
        return _closed(reviewer.name, "The reviewer's reply is not the JSON asked for: there is text around it.")
    return verdict(findings, reviewer.name)


def verdict(findings: Sequence[ReviewFinding], reviewer: str) -> ReviewOutput:
    """Passed: no blocker, and no major that fails."""
    blockers = sum(finding.severity == "blocker" for finding in findings)
    has_failing_major = any(finding.severity == "major" and not finding.passed for finding in findings)
    return ReviewOutput(
        passed=blockers == 0 and not has_failing_major,
        blocker_count=blockers,
        findings=tuple(findings),
        reviewer=reviewer,
    )


def read(reply: Reply) -> list[ReviewFinding] | None:
    """The findings of a reply that its schema accepts; None where the JSON is not the whole reply.

    An object somewhere in prose may be one that the reviewer quotes from the work.
    """
    fenced = FENCED.fullmatch(reply.text)
    try:
        whole = json.loads(fenced[1] if fenced else reply.text)
    except (ValueError, RecursionError):
        return None
    if whole != reply.structured or not isinstance(whole, dict):
        return None
    return [ReviewFinding.model_validate(finding) for finding in whole["findings"]]


def _criteria(given: str | list[str], task: str) -> list[str]:
    listed = [given] if isinstance(given, str) else given
    named = [criterion for criterion in listed if criterion.strip()] or [task]
    if not named[0].strip():
        raise failed(KIND, "there is nothing to judge the work by. Give the config key 'criteria', or a task.")
    return named


def _is_empty(work: JsonValue) -> bool:
    return work is None or work == [] or work == {} or (isinstance(work, str) and not work.strip())


def _closed(reviewer: str, why: str) -> ReviewOutput:
    """The verdict where there is none: one blocker that says why."""
    finding = ReviewFinding(criterion="review", passed=False, evidence=why, severity="blocker")
    return verdict([finding], reviewer)
