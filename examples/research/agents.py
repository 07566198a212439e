"""Who digests the studies, argues about them, and writes and edits the brief. Pure: the same prompt, the same answer.

The sections that agents are shown are those that perdure's patterns write (`workflows.patterns.prompts`).
"""

from __future__ import annotations

import re
from collections import defaultdict

from examples.research.evidence import SMALL, Finding, findings, listed, weak_sources
from workflows import AgentStepSpec

FEEDBACK = "Feedback of the supervisor:"
DRAFT = re.compile(r"Answers of the agents:\n\[writer\]\n(?P<draft>.*)\n\nIf they fulfil the task", re.DOTALL)
LIMIT = re.compile(r"at most (\d+) words")


def digest(step: AgentStepSpec) -> str:
    """Brings the findings of all studies together, by measure; larger studies weigh more."""
    by_measure: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings(step.prompt):
        by_measure[finding.measure].append(finding)
    return "\n\n".join(listed(_heading(measure, found), found) for measure, found in by_measure.items())


def _heading(measure: str, found: list[Finding]) -> str:
    weighed = sum(finding.change * finding.streets for finding in found) / sum(finding.streets for finding in found)
    studies = "1 study" if len(found) == 1 else f"{len(found)} studies"
    return f"{measure.capitalize()}, {studies}, {weighed:+.0f} % by streets"


def advocate(step: AgentStepSpec) -> str:
    """Says what speaks for it, without what the others called weak."""
    weak = weak_sources(step.prompt)
    return listed("For", [each for each in findings(step.prompt) if each.speaks_for and each.source not in weak])


def sceptic(step: AgentStepSpec) -> str:
    """Says what speaks against it, and which studies are too small to rest on."""
    found = findings(step.prompt)
    small = sorted({f"weak: {each.source} rests on {each.streets} streets" for each in found if each.streets < SMALL})
    against = listed("Against", [each for each in found if not each.speaks_for])
    return "\n".join([against, *small])


def moderator(step: AgentStepSpec) -> str:
    """Sorts what was said: for, against, and set aside where a study was called weak."""
    found, weak = findings(step.prompt), weak_sources(step.prompt)
    kept = [each for each in found if each.source not in weak]
    return "\n\n".join(
        (
            listed("For", [each for each in kept if each.speaks_for]),
            listed("Against", [each for each in kept if not each.speaks_for]),
            listed("Set aside", [each for each in found if each.source in weak]),
        )
    )


def writer(step: AgentStepSpec) -> str:
    """Writes the brief: a sentence for each finding at first, and for each measure once it was told to be brief."""
    task, _, feedback = step.prompt.partition(FEEDBACK)
    kept = findings(task.partition("Set aside:")[0])
    if "words" not in feedback:
        sentences = [f"According to {each.source}, {each.measure} changed by {each.change:+d} %." for each in kept]
        return " ".join(sentences)
    by_measure: dict[str, list[Finding]] = defaultdict(list)
    for each in kept:
        by_measure[each.measure].append(each)
    return " ".join(_sentence(measure, found) for measure, found in by_measure.items())


def _sentence(measure: str, found: list[Finding]) -> str:
    changes = sorted(each.change for each in found)
    spread = f"{changes[0]:+d}" if len(changes) == 1 else f"{changes[0]:+d} to {changes[-1]:+d}"
    verdicts = {each.speaks_for for each in found}
    direction = "mixed" if len(verdicts) == 2 else "better" if verdicts == {True} else "worse"
    return f"{measure.capitalize()}: {direction}, {spread} % ({', '.join(each.source for each in found)})."


def editor(step: AgentStepSpec) -> str:
    """Approves a brief that is short enough and whose every figure and source stands in the findings."""
    shown = DRAFT.search(step.prompt)
    if shown is None:
        return "There is no draft of the writer's to judge."
    draft, task = shown["draft"], step.prompt[: shown.start()]
    objections = [*_too_long(draft, task), *_unfounded(draft, findings(task.partition("Set aside:")[0]))]
    return "\n".join(objections) if objections else f"APPROVED\n{draft}"


def _too_long(draft: str, task: str) -> list[str]:
    limit, words = LIMIT.search(task), len(draft.split())
    if limit is None or words <= int(limit[1]):
        return []
    return [f"The brief has {words} words; at most {limit[1]} are wanted. Give a sentence to each measure."]


def _unfounded(draft: str, kept: list[Finding]) -> list[str]:
    figures = {int(figure) for figure in re.findall(r"[+-]\d+", draft)} - {each.change for each in kept}
    sources = set(re.findall(r"[\w-]+\.md", draft)) - {each.source for each in kept}
    return [f"No study that counts says {figure:+d} %." for figure in sorted(figures)] + [
        f"{source} is not among the studies that count." for source in sorted(sources)
    ]
