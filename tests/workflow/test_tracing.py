"""Traces of runs with model agents: in memory, and at a collector that a worker process sends them to."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import Client
from temporalio.contrib.opentelemetry import create_tracer_provider

from runtime.connect import connect
from runtime.local import LocalServer
from runtime.settings import Settings
from runtime.telemetry import tracing
from tests import programs
from tests.provider import Answer, Provider, Refusal, Tokens, ToolCall, always, by_turn
from tests.support import served, wait_until
from tests.workers import ROOT, client_for, new_id, worker_process

SECRET = "sk-nobody-may-see-this"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process traces while a test runs."""
    exporter = InMemorySpanExporter()
    provider = create_tracer_provider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # it can be set once, and other tests trace nothing
    yield exporter
    provider.shutdown()


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    monkeypatch.setenv("SCRIPTED_KEY", SECRET)
    adding = Answer(calls=(ToolCall("calculate", {"expression": "40 + 2"}),), tokens=Tokens(100, 10))
    async with Provider.serve(by_turn(adding, Answer("forty-two", tokens=Tokens(130, 5)))) as provider:
        yield provider


def _agents(provider: Provider, more: str = "") -> str:
    return f"""
        [agents.thinker]
        executor = "model"
        model = "scripted"
        base_url = "{provider.url()}"
        api_key_env = "SCRIPTED_KEY"
        tools = ["calculate"]
        {more}
    """


def _attributes(span: ReadableSpan, *names: str) -> dict[str, Any]:
    told = dict(span.attributes or {})
    return {name: told.get(name) for name in names}


def _named(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def _written(spans: InMemorySpanExporter) -> str:
    return "".join(span.to_json() for span in spans.get_finished_spans())


async def _run(client: Client, agents: str, blobs: Path, **step: Any) -> tuple[Any, Any]:
    """A run of one step, replayed for each of its workflow tasks; its id and its outcome."""
    step = {"task_id": "sum", "agent": "thinker", "prompt": "What is 40 + 2, friend?", **step}
    async with served(client, programs.FanOut, agents=agents, blobs=blobs, max_cached_workflows=0) as world:
        handle = await world.start("FanOut", [step])
        [outcome] = await handle.result()
    return handle, outcome


@pytest.mark.parametrize("more", ["", "idle_timeout_seconds = 60"], ids=["at once", "streamed"])
async def test_run_is_one_trace(
    client: Client, provider: Provider, spans: InMemorySpanExporter, tmp_path: Path, more: str
) -> None:
    """The run, its step, the model calls and the tool: each is one span, inside the one that it belongs to."""
    handle, outcome = await _run(client, _agents(provider, more), tmp_path)
    assert outcome["output"] == "forty-two"
    found = _named(spans)
    assert {name: len(several) for name, several in found.items()} == {
        "invoke_workflow FanOut": 1,
        "invoke_agent thinker": 1,
        "chat scripted": 2,
        "execute_tool calculate": 1,
    }
    [run], [step] = found["invoke_workflow FanOut"], found["invoke_agent thinker"]
    assert run.parent is None
    assert step.parent is not None
    assert run.context is not None
    assert step.context is not None
    assert (step.parent.trace_id, step.parent.span_id) == (run.context.trace_id, run.context.span_id)
    inside = [*found["chat scripted"], *found["execute_tool calculate"]]
    assert {span.parent.span_id for span in inside if span.parent} == {step.context.span_id}
    assert dict(run.attributes or {}) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "FanOut",
        "perdure.workflow_id": handle.id,
        "perdure.run_id": handle.first_execution_run_id,
        "perdure.status": "completed",
    }
    told = dict(step.attributes or {})
    assert told.pop("gen_ai.conversation.id")
    assert told == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "thinker",
        "perdure.step": "sum",
        "perdure.workflow_id": handle.id,
        "perdure.run_id": handle.first_execution_run_id,
        "perdure.attempt": 1,
        "perdure.status": "ok",
        "gen_ai.aggregated_usage.input_tokens": 230,
        "gen_ai.aggregated_usage.output_tokens": 15,
        "perdure.requests": 2,
        "perdure.tool_calls": 1,
    }
    usage = ("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert [_attributes(span, *usage) for span in found["chat scripted"]] == [
        dict(zip(usage, ("chat", "scripted", *tokens), strict=True)) for tokens in ((100, 10), (130, 5))
    ]
    written = _written(spans)
    assert not [word for word in ("friend", "40 + 2", "forty-two", SECRET) if word in written]


async def test_trace_holds_what_was_said_where_that_is_asked_for(
    client: Client, provider: Provider, spans: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PERDURE_TRACE_CONTENT prompts, answers and tools are in the spans; a key never, also where it is quoted."""
    monkeypatch.setattr("tests.support.Settings", lambda **given: Settings(trace_content=True, **given))
    client = await connect(Settings(trace_content=True), address=client.service_client.config.target_host)
    await _run(client, _agents(provider), tmp_path / "one")
    [tool] = _named(spans)["execute_tool calculate"]
    assert _attributes(tool, "gen_ai.tool.call.arguments", "gen_ai.tool.call.result") == {
        "gen_ai.tool.call.arguments": '{"expression":"40 + 2"}',
        "gen_ai.tool.call.result": "42",
    }
    written = _written(spans)
    assert [word for word in ("friend", "forty-two") if word in written] == ["friend", "forty-two"]
    spans.clear()

    provider.script = always(Refusal(401, "Incorrect API key: {key}."))
    await _run(client, _agents(provider), tmp_path / "two")
    found = _named(spans)
    told = "model 'scripted' answered 401: Incorrect API key: [secret]."
    assert [span.status.description for span in found["chat scripted"]] == [f"StepFailed: StepFailed: {told}"]
    assert [span.status.description for span in found["invoke_agent thinker"]] == [f"agent 'thinker': {told}"]
    assert SECRET not in _written(spans)


async def test_failed_step_is_an_error_in_its_trace(
    client: Client, provider: Provider, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    """Each attempt is a span, with what kind of failure ended it and without its text; the run itself went well."""
    provider.script = lambda request, number: Refusal(500, "Boom.") if number == 1 else Refusal(404, "No such model.")
    await _run(client, _agents(provider), tmp_path)
    found = _named(spans)
    names = ("perdure.attempt", "perdure.status", "error.type")
    assert [_attributes(span, *names) for span in found["invoke_agent thinker"]] == [
        {"perdure.attempt": 1, "perdure.status": None, "error.type": "RetryableStepError"},
        {"perdure.attempt": 2, "perdure.status": "failed", "error.type": "failed"},
    ]
    failed = [*found["invoke_agent thinker"], *found["chat scripted"]]
    assert [(span.status.status_code, span.status.description) for span in failed] == [
        (trace.StatusCode.ERROR, None)
    ] * 4
    assert [span.status.is_ok for span in found["invoke_workflow FanOut"]] == [True]
    assert not [word for word in ("Boom.", "No such model.") if word in _written(spans)]


def test_tracing_is_off_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, no exporter, or the switch of OpenTelemetry itself: nothing is traced."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    address = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    for environ in ({}, {**address, "OTEL_TRACES_EXPORTER": "none"}, {**address, "OTEL_SDK_DISABLED": "true"}):
        assert tracing(Settings(), environ) is None


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "Nothing is traced: the OTLP protocol is 'grpc', and spans are sent by 'http/protobuf' alone. Set "
            "OTEL_EXPORTER_OTLP_PROTOCOL to that, and the endpoint to where the collector takes it, commonly port "
            "4318.",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "Nothing is traced: OTEL_TRACES_EXPORTER is 'zipkin', and takes 'otlp', 'console' or 'none'.",
        ),
    ],
    ids=["grpc", "zipkin"],
)
def test_tracing_that_cannot_be_is_told(environ: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variables ask for and there is not is told, and the worker serves without."""
    said: list[str] = []
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr("runtime.telemetry._warn", said.append)
    assert tracing(Settings(), environ) is None
    assert said == [told]


@contextmanager
def _collector() -> Iterator[tuple[str, list[Any]]]:
    """A receiver of OTLP over HTTP on loopback: its address, and the spans that it was sent with their service."""
    received: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
                received.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{receiver.server_port}", received
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


async def test_worker_process_sends_its_spans(
    server: LocalServer, settings: Settings, provider: Provider, tmp_path: Path
) -> None:
    """The variables of OpenTelemetry switch it on, and what waits to be sent is sent before the worker leaves."""
    client = await client_for(server, settings)
    (tmp_path / "agents.toml").write_text(_agents(provider))
    options = ["--agents", str(tmp_path / "agents.toml"), "--task-queue", settings.task_queue]
    with _collector() as (address, received):
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "SCRIPTED_KEY": SECRET}
        async with worker_process(*options, "--address", server.address, **environ) as worker:
            await worker.until("serving")
            phases = [{"name": "one", "steps": [{"task_id": "sum", "agent": "thinker", "prompt": "go"}]}]
            run = await client.start_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
            assert json.loads(json.dumps(await run.result()))["succeeded"] == 1
            worker.process.send_signal(signal.SIGTERM)
            assert await worker.exit_code() == 0

        async def all_there() -> bool:
            return len(received) == 5

        await wait_until("the spans have come", all_there)
    assert sorted((service, span.name) for service, span in received) == [
        ("perdure", "chat scripted"),
        ("perdure", "chat scripted"),
        ("perdure", "execute_tool calculate"),
        ("perdure", "invoke_agent thinker"),
        ("perdure", "invoke_workflow Steps"),
    ]
    assert len({span.trace_id for _, span in received}) == 1


async def test_worker_that_traces_nothing_loads_nothing() -> None:
    """Without a variable a worker and its client load no part of OpenTelemetry's SDK."""
    script = (
        "import sys, worker, runtime.connect; print(sorted(n for n in sys.modules if n.startswith('opentelemetry')))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.strip()) == (0, b"[]")
