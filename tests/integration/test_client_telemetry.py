"""Spans and metrics of requests, with OpenTelemetry's own SDK."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from support.proxy import Proxy
from support.servers import Server
from support.wire import poll

from fastzk import AsyncClient, Client, State
from fastzk.errors import NoNodeError

if not os.environ.get("CI"):  # there it must be
    pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastzk.client.telemetry import Telemetry


class Collector:
    """What an application's exporters would get."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("test")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])

    def telemetry(self, **options: bool) -> Telemetry:
        return Telemetry(self.tracers, self.meters, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()  # None: there are none yet
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def collector() -> Collector:
    return Collector()


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def span_id(span: trace.Span) -> int:
    return span.get_span_context().span_id


def test_requests_are_spans_below_that_of_their_caller(any_server: Server, root: str, collector: Collector) -> None:
    with Client(any_server.hosts + root, observer=collector.telemetry()) as zk:
        with collector.tracer.start_as_current_span("job") as job:
            zk.create("/a", b"x")
            assert zk.exists("/nope") is None
            with pytest.raises(NoNodeError):
                zk.get("/nope")
        zk.get("/a")
    (create,) = collector.spans("create")
    assert create.kind == trace.SpanKind.CLIENT
    assert create.status.status_code == trace.StatusCode.UNSET
    assert dict(create.attributes or {}) == {
        "db.system.name": "zookeeper",
        "db.operation.name": "create",
        "zookeeper.path": "/a",
    }
    assert create.start_time is not None
    assert create.end_time is not None
    assert 0 < create.end_time - create.start_time < 60e9
    (exists,) = collector.spans("exists")
    assert exists.status.status_code == trace.StatusCode.UNSET
    failed, alone = collector.spans("get_data")
    assert failed.status.status_code == trace.StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "NoNodeError"
    assert (failed.attributes or {})["db.response.status_code"] == "-101"
    assert [parent_of(each) for each in (create, exists, failed)] == [span_id(job)] * 3
    assert parent_of(alone) is None


def test_pipelined_requests_have_the_spans_of_their_tasks(any_server: Server, root: str, collector: Collector) -> None:
    async def work(zk: AsyncClient, number: int) -> tuple[str, int]:
        with collector.tracer.start_as_current_span(f"job {number}") as job:
            await zk.create(f"/{number}")
            await zk.ensure_path(f"/{number}/b/c")
        return f"/{number}", span_id(job)

    async def main() -> None:
        async with AsyncClient(any_server.hosts + root, observer=collector.telemetry()) as zk:
            jobs = dict(await asyncio.gather(*[work(zk, number) for number in range(20)]))
        created = collector.spans("create")
        assert len(created) == 60
        for span in created:
            top = "/" + str((span.attributes or {})["zookeeper.path"]).split("/")[1]
            assert parent_of(span) == jobs[top]

    asyncio.run(main())


def test_durations(any_server: Server, root: str, collector: Collector) -> None:
    telemetry = collector.telemetry(spans=False)
    with Client(any_server.hosts + root, observer=telemetry) as zk:
        for _ in range(10):
            zk.exists("/")
        with pytest.raises(NoNodeError):
            zk.get("/nope")
    assert collector.exporter.get_finished_spans() == ()
    points = {
        (point.attributes["db.operation.name"], point.attributes.get("error.type")): point
        for point in collector.points("db.client.operation.duration")
    }
    assert points["exists", None].count == 10
    assert 0 < points["exists", None].sum < 60
    assert points["exists", None].explicit_bounds[0] < 0.001
    assert points["get_data", "NoNodeError"].count == 1


def test_a_path_may_be_left_out(any_server: Server, root: str, collector: Collector) -> None:
    with Client(any_server.hosts + root, observer=collector.telemetry(paths=False)) as zk:
        zk.exists("/")
    (span,) = collector.spans("exists")
    assert "zookeeper.path" not in (span.attributes or {})


def test_changes_of_state_are_counted(server: Server, collector: Collector) -> None:
    def changes() -> dict[str, int]:
        points = collector.points("zookeeper.client.state_changes")
        return {point.attributes["zookeeper.state"]: point.value for point in points}

    telemetry = collector.telemetry()
    with Proxy(server.port) as proxy, Client(proxy.hosts, observer=telemetry) as zk:
        zk.add_listener(telemetry.on_state)
        proxy.cut()
        poll(lambda: changes() == {State.SUSPENDED: 1, State.CONNECTED: 1}, "both are counted", 20)
