"""Spans and metrics of a client's requests, by OpenTelemetry.

    from fastzk.client.telemetry import Telemetry

    with Client(hosts, observer=Telemetry()) as zk: ...

Needs the package ``opentelemetry-api`` (the extra ``telemetry``), and something that takes what it makes, the SDK for
example. Nothing else of fastzk imports this module. Names and attributes follow OpenTelemetry's conventions for
clients of databases.
"""

from __future__ import annotations

from time import time_ns
from typing import Final, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace

from fastzk._version import __version__
from fastzk.client.states import State
from fastzk.errors import from_code
from fastzk.protocol import Error, OpCode

#: Of the histogram, in seconds: a request takes from some 50 us to some seconds.
_BOUNDARIES: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SYSTEM: Final = "zookeeper"


class _Beginning(NamedTuple):
    """What is known when a request is made."""

    context: otel_context.Context
    time_ns: int


class Telemetry:
    """An observer that makes a span of each request, and a histogram of how long they take.

    Give one to each client as ``observer=``; one may serve several clients. A span's parent is the span in which the
    request was made. The requests that fastzk makes by itself for an operation of several, as ``ensure_path`` and the
    recipes are, have the same parent with AsyncClient; with Client those behind the first may have none.

    The spans have the name of the operation (``get_data``, ``create``), the kind CLIENT, and the attributes
    ``db.system.name``, ``db.operation.name``, ``zookeeper.path`` and, of requests that failed, ``error.type`` (the
    class in :mod:`fastzk.errors`) and ``db.response.status_code``. An ``exists`` of a znode that is not
    there is no failure. The histogram is ``db.client.operation.duration``, in seconds, with the same attributes but for
    the path.

    :param tracer_provider: where spans go; the global one where it is None.
    :param meter_provider: where metrics go; the global one where it is None.
    :param spans: whether to make spans.
    :param paths: whether spans tell the path, which may be confidential.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        spans: bool = True,
        paths: bool = True,
    ) -> None:
        self._tracer = trace.get_tracer("fastzk.client", __version__, tracer_provider) if spans else None
        self._paths = paths
        meter = metrics.get_meter("fastzk.client", __version__, meter_provider)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="How long requests to ZooKeeper take",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self._states = meter.create_counter(
            "zookeeper.client.state_changes",
            unit="{change}",
            description="How often clients became CONNECTED, SUSPENDED or LOST",
        )
        # The attributes of a metric, by opcode and error code: there are few.
        self._attributes: dict[tuple[int, int], dict[str, str]] = {}

    def began(self, opcode: int, /) -> object:
        """See fastzk.client.interfaces.Tracer."""
        return None if self._tracer is None else _Beginning(otel_context.get_current(), time_ns())

    def ended(self, token: object, opcode: int, path: str | None, error: int, seconds: float, /) -> None:
        """See fastzk.client.interfaces.Tracer."""
        attributes = self._attributes.get((opcode, error))
        if attributes is None:
            attributes = self._attributes[opcode, error] = _describe(opcode, error)
        if self._tracer is None or not isinstance(token, _Beginning):
            self._duration.record(seconds, attributes)
            return
        span = self._tracer.start_span(
            attributes["db.operation.name"],
            token.context,
            trace.SpanKind.CLIENT,
            {**attributes, "zookeeper.path": path} if self._paths and path is not None else attributes,
            start_time=token.time_ns,
        )
        if "error.type" in attributes:
            span.set_status(trace.Status(trace.StatusCode.ERROR, attributes["error.type"]))
        # In the span's context a histogram can keep it as an example of its bucket.
        self._duration.record(seconds, attributes, trace.set_span_in_context(span, token.context))
        span.end(token.time_ns + round(seconds * 1e9))

    def on_state(self, state: State) -> None:
        """A listener that counts the changes of state: ``client.add_listener(telemetry.on_state)``."""
        self._states.add(1, {"db.system.name": _SYSTEM, "zookeeper.state": state.value})


def _describe(opcode: int, error: int) -> dict[str, str]:
    try:
        operation = OpCode(opcode).name.lower()
    except ValueError:
        operation = str(opcode)
    attributes = {"db.system.name": _SYSTEM, "db.operation.name": operation}
    if error != Error.OK and not (opcode == OpCode.EXISTS and error == Error.NO_NODE):
        attributes["error.type"] = type(from_code(error)).__name__
        attributes["db.response.status_code"] = str(error)
    return attributes
