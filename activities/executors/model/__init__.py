"""Agents that are language models with tools, in a loop.

The loop is our own, over one request at a time of pydantic-ai's `Model`: what a piece of the transcript holds, when it
is durable, and which of a turn's calls still lack a result are decided here, where an agent framework's own loop would
have to be interrupted at the right places. Models, messages, prices, profiles and the schemas of providers are
pydantic-ai's.

    conversation.py the loop
    transcript.py   what was said, in pieces that are kept one by one
    toolset.py      which tools the model is offered, and how a call of one ends
    output.py       the answer in the form that the step asks for
    asking.py       one request: its limits, what it cost, and which model answered
    estimate.py     tokens of a request that nobody has counted yet
    prices.py       dollars of a request, and what a sum of them pays for
    faults.py       what the failure of a request means
    naming.py       which models an agent asks, and how one is built
    compatible.py   models of OpenAI-compatible servers, which answer in their own way
    bodies.py       requests that go out without a detour
    spans.py        what traces tell of a conversation
    probing.py      whether a model can be asked, without a token

Law: an answer or a tool's result that is in a piece is never asked for again, and no request goes out before the piece
of what came before it is durable.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from activities.context import StepContext
from activities.entries import ModelAgent
from activities.executors import Resources
from workflows.steps import StepCall

CONVERSATION = "activities.executors.model.conversation"


class ModelExecutor:
    """Holds the conversation of one step. Running twice goes on from the transcript that the first time has left."""

    def __init__(self, entry: ModelAgent, resources: Resources) -> None:
        self._entry = entry
        self._resources = resources

    async def run(self, call: StepCall, context: StepContext) -> Any:
        """How the conversation ended: answered, failed, or suspended until others have answered."""
        await self._resources.muster.gather()
        # In a thread: the model libraries take seconds to load, and the event loop carries everybody's heartbeats.
        await asyncio.to_thread(importlib.import_module, CONVERSATION)
        from activities.executors.model.conversation import converse

        return await converse(self._entry, self._resources, call, context)
