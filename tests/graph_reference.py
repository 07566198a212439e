"""What stage graphs do, in plain Python, written from their contract alone.

Law: nothing of the engine is used here, neither models nor helpers, so that no mistake of it can be repeated.
Definitions are the JSON that a client sends, with every field that matters here written out; time, tools and people
are left out.
"""

from __future__ import annotations

import json
from collections import ChainMap, Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from tests.proposal_reference import UNSPELT, Failed, Json, all_hold, as_text, propose, rendered

State = MutableMapping[str, Json]
Visit = tuple[str, str, str | None]
"""Stage, status and error; the compensation of a stage is a visit of `undo <stage>`."""

REPLIES = {"yes": "yes", "no": "no", "broken": None}
# Of the scripted agents; any other one replies with the task.


@dataclass(frozen=True)
class Ended:
    """How a graph ended."""

    status: str
    state: dict[str, Json]
    answer: str


@dataclass(frozen=True)
class Place:
    """Where a step stands: its stage, the graph's goal, who writes visits down, and what references read."""

    stage: str
    goal: str | None
    visits: list[Visit]
    referred: Mapping[str, Json]


def walk(graph: Json, initial: Mapping[str, Json], visits: list[Visit]) -> Ended:
    """Run a graph to its end; every stage and compensation, nested ones before their own, goes to `visits`."""
    stages = {stage["id"]: stage for stage in graph["stages"]}
    state: dict[str, Json] = {**initial, **({} if graph["goal"] is None else {"goal": graph["goal"]})}
    completed, answer, following, failed = list[Json](), "", graph["start"], False
    executions = 0
    while following is not None:
        name, stage, executions = following, stages[following], executions + 1
        if executions > graph["max_iterations"]:
            visits.append((name, "failed", f"cycle limit reached after {graph['max_iterations']} iterations"))
            failed = True
            break
        try:
            answer = perform(stage["step"], state, Place(name, graph["goal"], visits, state))
        except Failed as failure:
            failed, told = True, {f"stage.{name}.succeeded": False, f"stage.{name}.error": failure.error}
            visits.append((name, "failed", failure.error))
        else:
            failed, told = False, {f"stage.{name}.succeeded": True, f"stage.{name}.answer": answer}
            visits.append((name, "succeeded", None))
            completed.append(stage)
        state.update(told)
        leaving = (edge for edge in graph["edges"] if edge["from"] == name and all_hold(edge["conditions"], state))
        fitting = [edge["to"] for edge in leaving]
        following = fitting[0] if fitting and (not failed or stage["on_failure"] == "route") else None
    undone = undo(graph, stages, completed, state, visits) if failed else []
    status = "compensated" if all(undone) else "partially_compensated"
    return Ended(("failed" if not undone else status) if failed else "completed", state, answer)


def undo(graph: Json, stages: Json, completed: list[Json], state: State, visits: list[Visit]) -> list[bool]:
    """Compensate what was completed, latest first; which compensations succeeded."""
    undone, at_failure = list[bool](), dict(state)
    for stage in (stage for stage in reversed(completed) if stage["compensation"] is not None):
        compensation, error, written = stage["compensation"], None, dict[str, Json]()
        by = compensation.get("stage_id", stage["id"])
        step = stages[by]["step"] if compensation["type"] == "stage_ref" else compensation
        try:
            perform(step, ChainMap(written, state), Place(by, graph["goal"], [], at_failure))
        except Failed as failure:
            error = failure.error
        state.update({key: value for key, value in written.items() if not key.startswith("stage.")})
        undone.append(error is None)
        visits.append((f"undo {stage['id']}", "failed" if error else "compensated", error))
    return undone


def perform(step: Json, state: State, place: Place) -> str:
    """Run a step on a state; its answer."""
    match step["type"]:
        case "pattern":
            return coordinate(step, state, place)
        case "proposal":
            return act(step["proposal"], state, place)
        case "loop_until":
            return repeat(step, state, place)
        case "for_each":
            return for_each(step, state, place)
    nested = walk(step["workflow"], rendered(step["workflow"]["initial_state"], place.referred), place.visits)
    if nested.status != "completed":
        raise Failed("stage 'sub_workflow' failed: sub-workflow failed")
    return nested.answer


def repeat(step: Json, state: State, place: Place) -> str:
    """The body until the conditions hold, or `max_iterations` times."""
    answer = ""
    for iteration in range(1, step["max_iterations"] + 1):
        answer = perform(step["body"], state, place)
        state.update({f"stage.{place.stage}.answer": answer, f"stage.{place.stage}.iteration": iteration})
        if step["until"] and all_hold(step["until"], state):
            break
    return answer


def for_each(step: Json, state: State, place: Place) -> str:
    """The body for each item on a state of its own; each item runs, whatever becomes of the others."""
    found, answers = state.get(step["items_from"]), list[str]()
    failed = 0
    items = found if isinstance(found, list) else []
    for index, item in enumerate(items):
        own, prefix = ChainMap[str, Json]({}, {"item": item, "index": index}, state), f"foreach.{place.stage}.{index}"
        # References in a compensation read the state at the failure, and the item; else what the body has written too.
        referred = own if place.referred is state else ChainMap(own.maps[1], dict(place.referred))
        try:
            answer = perform(step["body"], own, replace(place, referred=referred))
        except Failed:
            answer, failed = UNSPELT, failed + 1
        answers.append(answer)
        state.update({f"{prefix}.item": item, f"{prefix}.answer": answer})
        state.update({f"{prefix}.state.{key}": value for key, value in own.maps[0].items()})
    state[f"foreach.{place.stage}.count"] = len(items)
    if failed:
        raise Failed(UNSPELT)
    return as_text(answers)


def coordinate(step: Json, state: State, place: Place) -> str:
    """Ask the scripted agents; the answer that the pattern settles on."""
    task, names = as_text(rendered(step["task"], place.referred)), [agent["name"] for agent in step["agents"]]
    task = task if place.goal is None else f"Overall goal: {place.goal}\nCurrent step: {task}"
    replies = {name: REPLIES.get(name, task) for name in names}
    answers = {name: reply for name, reply in replies.items() if reply is not None}
    kind = step["pattern"]
    if not answers and kind != "fleet":
        raise Failed("agent error: no agents produced output")
    if kind == "pipeline" and replies[names[-1]] is None:
        raise Failed(UNSPELT)
    state.update({f"agent.{name}.answer": answer for name, answer in answers.items()})
    match kind:
        case "fleet":
            return f"{len(answers)} succeeded, {len(names) - len(answers)} failed"
        case "vote":  # equally common answers keep the order of their first voters
            return Counter(answers.values()).most_common(1)[0][0]
    return list(answers.values())[-1]


def act(proposal: Json, state: State, place: Place) -> str:
    """Run a proposal, and write what it changed if all of it succeeded."""
    actions = [{**each, "parameters": rendered(each["parameters"], place.referred)} for each in proposal["actions"]]
    results = propose(actions, state).results
    if any(result.status != "succeeded" for result in results):
        errors = [result.error for result in results if result.error is not None]
        told = f"stage 'proposal' failed: {'; '.join(errors)}"
        raise Failed(UNSPELT if any(error is UNSPELT for error in errors) else told)
    for result in results:
        state.update(result.changes)
    return (
        ""
        if not results or results[-1].output is None
        else json.dumps(results[-1].output, ensure_ascii=False, separators=(",", ":"))
    )
