"""Tools: what actions and agents with a model may call. Write one as a typed function and name it in agents.toml.

from activities.tools import ToolContext, tool

@tool(timeout_seconds=30)
def publish(report: str, context: ToolContext) -> dict[str, str]:
    "Put a report on the intranet."
"""

from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import Tool, Toolbox, tool

__all__ = ["Tool", "ToolContext", "ToolFailed", "Toolbox", "tool"]
