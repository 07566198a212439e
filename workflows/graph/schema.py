"""The JSON Schema of a definition, for editors that complete and check while people write.

Law: made from the definition's own types. Stricter than reading in one thing: a field that nothing reads is refused.
"""

from __future__ import annotations

from typing import Any

from workflows.graph.definition import GraphDefinition
from workflows.graph.fields import WITHOUT_EFFECT, fields_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def graph_schema() -> dict[str, Any]:
    """The schema of a stage graph, in JSON or YAML."""
    schema = GraphDefinition.model_json_schema(by_alias=True)
    parts = schema["$defs"]
    for part in parts.values():
        if "properties" in part:
            part["additionalProperties"] = False
    for model, ignored in WITHOUT_EFFECT.items():
        for name in ignored.keys() - fields_of(model).keys():
            parts[model.__name__]["properties"][name] = {"description": "Has no effect here."}
    parts["Action"]["required"].remove("id")  # generated where it is missing
    return {"$schema": DIALECT, **schema}
