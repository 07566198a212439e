"""A plain value -> a definition, and every field in it that has no meaning.

Law: the definition's own types say what a field may hold; nothing here repeats them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from workflows.errors import cut
from workflows.graph.conditions import same
from workflows.graph.definition import Action, GraphDefinition, Stage
from workflows.graph.locating import Path
from workflows.graph.reading import MAX_DEPTH, too_deep
from workflows.graph.verdict import Finding
from workflows.parsing import nearest, reason_of, told
from workflows.steps import AgentSpec

MAX_NESTING = 32
# Graphs and bodies inside the outermost graph: car's own limit.

UNION_FIELDS = ("step", "body", "compensation")
"""Fields whose type is told by `type`: pydantic puts that tag into the path of a mistake."""

WITHOUT_EFFECT: dict[type[BaseModel], dict[str, tuple[Any, ...]]] = {
    Action: {
        "read_set": ([],),
        "write_set": ([],),
        "assumptions": ([],),
        "invocation_mode": ("direct", "standard", "sync"),
        "reversibility": ("unknown",),
        "dependencies": ([],),
    },
    AgentSpec: {"cache_control": (False,)},
    GraphDefinition: {"$schema": ()},
}
"""Fields of other engines that are accepted; a value other than these (or null) would have changed something there."""

WITHOUT_TURNS = "'max_turns' is 0, and an agent that is asked has one turn: it counts as 1."


@dataclass(frozen=True)
class Held:
    """The models that a field holds, told apart by `type` where there are several."""

    models: dict[str | None, type[BaseModel]]

    def of(self, value: dict[str, Any]) -> type[BaseModel]:
        """The model of one value of a definition."""
        return self.models.get(None) or self.models[value["type"]]

    def sorted_out(self, values: list[dict[str, Any]]) -> Iterable[tuple[type[BaseModel], list[dict[str, Any]]]]:
        """Values by their models."""
        if None in self.models:
            return [(self.models[None], values)] if values else []
        by_type: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for value in values:
            by_type[value["type"]].append(value)
        return [(self.models[kind], those) for kind, those in by_type.items()]


@cache
def fields_of(model: type[BaseModel]) -> dict[str, Held | None]:
    """Every field by the name that people write, and what models it holds."""
    return {field.alias or name: _held(field.annotation) for name, field in model.model_fields.items()}


def _held(annotation: Any) -> Held | None:
    models = list(_models(annotation))
    if not models:
        return None
    if len(models) == 1:
        return Held({None: models[0]})
    return Held({model.model_fields["type"].default: model for model in models})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def parse_definition(value: Any, *, is_shallow: bool = False) -> GraphDefinition | list[Finding]:
    """The definition, or every mistake that keeps it from being one.

    `is_shallow`: of a value that comes from a text, whose depth was measured already.
    """
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else cut(repr(value))
        return [Finding("error", f"a stage graph is an object with id, name, start and stages; this is {found}.")]
    if not is_shallow and too_deep(value):
        return [Finding("error", f"the graph is nested more than {MAX_DEPTH} levels deep. Flatten it.")]
    deep = _nested_too_deep(value)
    if deep is not None:
        return [deep]
    try:
        return GraphDefinition.model_validate(value)
    except ValidationError as error:
        return [_mistake(value, mistake) for mistake in _one_each(error)]


def _nested_too_deep(value: dict[str, Any]) -> Finding | None:
    """Looked for before anything recurses."""
    waiting: list[tuple[Any, Path, int]] = [(value, (), 0)]
    while waiting:
        holder, path, depth = waiting.pop()
        if depth > MAX_NESTING:
            message = f"graphs and bodies are nested more than {MAX_NESTING} levels deep. Flatten them."
            return Finding("error", message, path)
        if not isinstance(holder, dict):
            continue
        if holder.get("type") in ("loop_until", "for_each"):
            waiting.append((holder.get("body"), (*path, "body"), depth + 1))
        elif holder.get("type") == "sub_workflow":
            waiting.append((holder.get("workflow"), (*path, "workflow"), depth + 1))
        else:
            stages = holder.get("stages")
            for number, stage in enumerate(stages if isinstance(stages, list) else ()):
                if isinstance(stage, dict):
                    waiting.append((stage.get("step"), (*path, "stages", number, "step"), depth))
    return None


def _one_each(error: ValidationError) -> Iterator[Any]:
    """One mistake for each place: a union of plain types reports one for every member."""
    seen: set[Path] = set()
    for mistake in error.errors(include_url=False, include_context=False):
        loc = tuple(part for part in mistake["loc"] if not (isinstance(part, str) and part.endswith("]")))
        if loc not in seen:
            seen.add(loc)
            yield {**mistake, "loc": loc}


def _mistake(value: Any, mistake: Any) -> Finding:
    path, stage_ids, inside = _path(value, mistake["loc"])
    name = repr(".".join(str(part) for part in inside))
    stage_id = "/".join(stage_ids) or None
    subject = f"stage {stage_id!r}: {name}" if stage_id else name
    found = mistake["input"]
    if mistake["type"] == "missing":
        return Finding("error", f"{subject} is missing.", path[:-1], stage_id=stage_id)
    if mistake["type"] == "union_tag_not_found":
        return Finding("error", f"{subject} has no 'type'. {_types(path)}", path, stage_id=stage_id)
    if mistake["type"] == "union_tag_invalid":
        message = f"{subject} has the type {cut(repr(found.get('type')))}. {_types(path)}"
        return Finding("error", message, (*path, "type"), stage_id=stage_id)
    return Finding("error", f"{subject} is {told(found)}; {reason_of(mistake)}.", path, stage_id=stage_id)


def _types(path: Path) -> str:
    held = fields_of(Stage)["compensation" if path[-1] == "compensation" else "step"]
    return f"The types are {listed(sorted(str(tag) for tag in held.models))}." if held else ""


def _path(value: Any, loc: tuple[str | int, ...]) -> tuple[Path, list[str], Path]:
    """Where a mistake is without pydantic's own parts, the stages around it, and where it is in the last of them."""
    path: list[str | int] = []
    stage_ids: list[str] = []
    begins = 0
    at, is_tag = value, False
    for part in loc:
        if is_tag:
            is_tag = False
            continue
        path.append(part)
        at = _part(at, part)
        is_tag = part in UNION_FIELDS
        if path[-2:-1] == ["stages"] and isinstance(at, dict) and isinstance(at.get("id"), str):
            stage_ids.append(at["id"])
            begins = len(path)
    return tuple(path), stage_ids, tuple(path[begins:]) or tuple(path)


def _part(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def unknown_fields(value: dict[str, Any]) -> Iterator[Finding]:
    """A doubt for each field that nothing reads, a warning for each that only other engines read.

    For a value that is a definition. What is in `metadata`, `config` and `context` is the author's own.
    """
    if _needs_no_word(value):
        return  # as nearly every graph, and knowing where each part stands is most of the work below
    waiting: list[tuple[dict[str, Any], type[BaseModel], Path, str | None]] = [(value, GraphDefinition, (), None)]
    while waiting:
        item, model, path, stage_id = waiting.pop()
        ordinary, holding = _sorted_out(model)
        if model is Stage:
            stage_id = f"{stage_id}/{item['id']}" if stage_id else item["id"]
        if not item.keys() <= ordinary:
            found = [_unknown(name, item[name], model, (*path, name), stage_id) for name in item.keys() - ordinary]
            yield from sorted(filter(None, found), key=lambda finding: finding.message)
        if model is AgentSpec and item.get("max_turns") == 0:
            subject = f"stage {stage_id!r}: " if stage_id else ""
            yield Finding("warning", f"{subject}{WITHOUT_TURNS}", (*path, "max_turns"), stage_id=stage_id)
        for name, held in holding:
            if name in item:
                waiting += [
                    (inner, held.of(inner), (*path, name, *part), stage_id) for part, inner in _objects(item[name])
                ]


def _needs_no_word(value: dict[str, Any]) -> bool:
    """Whether there is nothing to find."""
    waiting: list[tuple[type[BaseModel], list[dict[str, Any]]]] = [(GraphDefinition, [value])]
    while waiting:  # all that one field holds at once: a large graph has ten thousand of each kind
        model, items = waiting.pop()
        ordinary, holding = _sorted_out(model)
        if not all(item.keys() <= ordinary for item in items):
            return False
        if model is AgentSpec and any(item.get("max_turns") == 0 for item in items):
            return False
        for name, held in holding:
            objects = [inner for item in items if (found := item.get(name)) for inner in _dicts(found)]
            waiting += held.sorted_out(objects)
    return True


def _dicts(found: Any) -> Iterable[dict[str, Any]]:
    return (found,) if isinstance(found, dict) else [inner for inner in found if isinstance(inner, dict)]


@cache
def _sorted_out(model: type[BaseModel]) -> tuple[frozenset[str], list[tuple[str, Held]]]:
    """The names of a model that need no look, and its fields that hold models.

    A field that is written otherwise in Python (an edge's `source`) is read by that name too, so it is no doubt.
    """
    fields = fields_of(model)
    ordinary = frozenset((fields.keys() | model.model_fields.keys()) - WITHOUT_EFFECT.get(model, {}).keys())
    return ordinary, [(name, held) for name, held in fields.items() if held is not None]


def _objects(value: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    if isinstance(value, dict):
        yield (), value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield (index,), item


def _unknown(name: str, value: Any, model: type[BaseModel], path: Path, stage_id: str | None) -> Finding | None:
    subject = f"stage {stage_id!r}: " if stage_id else ""
    harmless = WITHOUT_EFFECT.get(model, {}).get(name)
    if harmless is None:
        message = f"{subject}{cut(name)!r} is not known and is ignored.{_nearest(name, model)}"
        return Finding("doubt", message, path, stage_id=stage_id, is_key=True)
    if value is None or name == "$schema" or any(same(value, each) for each in harmless):
        return None
    return Finding("warning", f"{subject}{name!r} has no effect here.", path, stage_id=stage_id, is_key=True)


@lru_cache(maxsize=1_000)
def _nearest(name: str, model: type[BaseModel]) -> str:
    return nearest(name, fields_of(model))


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: 'a', 'b' and 'c'."""
    quoted = [repr(cut(name)) for name in names]
    return "none" if not quoted else quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
