"""Figures for Prometheus, of one application."""

from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from ntre_deploy import __version__
from ntre_deploy.serving.http.serving import Serving

CONTENT_TYPE = CONTENT_TYPE_LATEST
# seconds; a query takes 5 ms on a GPU and a second on a small device
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What is counted and measured; from the event loop alone.

    Args:
        serving: whose queues and bundles are told.
    """

    def __init__(self, serving: Serving) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ntre_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "ntre_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "ntre_stage_seconds",
            "Of a photo: waiting for a worker (queue), reading its file (decode), encoding supports that were not "
            "known (support), network and label map (engine), making the answer (encode).",
            ["bundle", "stage"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.photos = Counter("ntre_photos", "Photos that were segmented.", ["bundle"], registry=self.registry)
        self.failed = Counter("ntre_photos_failed", "Photos that were not.", ["bundle"], registry=self.registry)
        self.registry.register(_State(serving))
        ProcessCollector(registry=self.registry)

    def photo(self, bundle: str, seconds: dict[str, float]) -> None:
        """Count a photo of a bundle with the seconds of its stages."""
        self.photos.labels(bundle).inc()
        for stage, value in seconds.items():
            self.stage_seconds.labels(bundle, stage).observe(value)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def total(self, name: str, **labels: str) -> float:
        """The present value of a sample; 0 where there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0


class _State:
    """What is asked for when it is read, rather than kept."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterable[Metric]:
        serving = self._serving
        ready = GaugeMetricFamily("ntre_ready", "1 while requests are accepted.", value=int(serving.ready))
        accepted = GaugeMetricFamily("ntre_in_flight", "Requests that are being answered.", value=serving.accepted)
        waiting = GaugeMetricFamily("ntre_queue_length", "Requests that no worker is busy with.", labels=["bundle"])
        places = GaugeMetricFamily("ntre_queue_limit", "Requests that may wait.", labels=["bundle"])
        workers = GaugeMetricFamily("ntre_workers", "Photos that are worked on at once.", labels=["bundle"])
        info = InfoMetricFamily("ntre_bundle", "What is served.", labels=["bundle"])
        version = InfoMetricFamily("ntre", "This package.", value={"version": __version__})
        for name, service in serving.services.items():
            waiting.add_metric([name], serving.waiting(service))
            places.add_metric([name], service.pool.waiting)
            workers.add_metric([name], service.pool.workers)
            engine = service.segmenter.engine
            told = {"engine": engine.name, "precision": engine.precision, "model": service.segmenter.model.id}
            info.add_metric([name], told)
        return [ready, accepted, waiting, places, workers, info, version]
