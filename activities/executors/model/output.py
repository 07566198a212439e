"""The answer in the form that a step asks for: a text, or an object that fits a JSON Schema.

An object comes by the model's own schema mode where it has one, else as the arguments of a tool, else as a text that
the instructions describe. Whichever it was, it is checked here; what does not fit goes back to the model.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.tools import ToolDefinition

from activities.blobs import plain_json
from activities.structured import StructuredOutputFailed, checked, refuse_invalid

OUTPUT_TOOL = "final_result"
OUTPUT_NAME = "answer"
REPAIRS = 2
# How often an object that does not fit goes back. A model that fails three times on one schema fails on it for good.

Schema = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Form:
    """What a step asks its answer to be; without a schema, a text."""

    schema: Schema | None = None

    @classmethod
    async def of(cls, schema: Schema | None) -> Form:
        """The form of a step's schema. Raises `StructuredOutputFailed` where it is no JSON Schema."""
        if schema is not None:
            await asyncio.to_thread(refuse_invalid, schema)
        return cls(schema)

    @property
    def written(self) -> str:
        """The schema as it goes to the model."""
        return "" if self.schema is None else plain_json(self.schema)

    def parameters(self, tools: list[ToolDefinition], model: Model) -> ModelRequestParameters:
        """What a request to a model says of its tools and its answer."""
        if self.schema is None:
            return ModelRequestParameters(function_tools=tools)
        if self.schema.get("type") != "object":
            # Providers take nothing else at the root; described in words, any schema can be asked for.
            return ModelRequestParameters(
                function_tools=tools, output_mode="prompted", output_object=self._object(self.schema)
            )
        if model.profile.get("supports_json_schema_output", False):
            return ModelRequestParameters(
                function_tools=tools, output_mode="native", output_object=self._object(self.schema)
            )
        return ModelRequestParameters(
            function_tools=tools,
            output_mode="tool",
            output_tools=[self._tool(self.schema)],
            allow_text_output=False,
        )

    def _object(self, schema: Schema) -> OutputObjectDefinition:
        return OutputObjectDefinition(json_schema=dict(schema), name=OUTPUT_NAME)

    def _tool(self, schema: Schema) -> ToolDefinition:
        return ToolDefinition(
            name=OUTPUT_TOOL,
            description="Give the final answer. Call it once, when nothing is left to do.",
            parameters_json_schema=dict(schema),
            kind="output",
        )

    def output_call(self, calls: list[ToolCallPart]) -> ToolCallPart | None:
        """The call that gives the final answer, if there is one among the calls of a turn."""
        if self.schema is None:
            return None
        return next((call for call in calls if call.tool_name == OUTPUT_TOOL), None)


async def fault_in(form: Form, given: Any, text: str) -> str | None:
    """Why an answer does not fit its form; None where it does."""
    if form.schema is None:
        return None
    try:
        # In a thread: a large answer takes longer than the event loop may be held.
        await asyncio.to_thread(checked, given, text, form.schema)
    except StructuredOutputFailed as error:
        return str(error)
    return None


def sent_back(fault: str) -> str:
    """What the model is told of an answer that does not fit."""
    return f"The answer does not fit its schema: {fault}. Give the whole answer again, as one JSON value that fits."
