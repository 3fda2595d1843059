"""Figures for Prometheus. No client is named in them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
REQUESTS = Counter("glyphc_requests", "Answered requests", ["method", "status"], registry=REGISTRY)
RECEIVED = Counter("glyphc_received_bytes", "Bytes of keys and ciphertexts received", registry=REGISTRY)
FINISHED = Counter("glyphc_jobs_finished", "Finished jobs", ["state"], registry=REGISTRY)
SECONDS = Histogram(
    "glyphc_evaluation_seconds",
    "Time of evaluations, loading of keys included",
    buckets=(1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600),
    registry=REGISTRY,
)
JOBS = Gauge("glyphc_jobs", "Jobs by state", ["state"], registry=REGISTRY)
AWAY = Gauge("glyphc_cluster_away", "1 while jobs wait for the Dask cluster, which is away", registry=REGISTRY)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def count(method: str, status: int) -> None:
    """An answer. A stranger may invent methods: each label takes memory for ever, so there are few."""
    REQUESTS.labels(method if method in _METHODS else "other", str(status)).inc()


def text(counts: dict[str, int]) -> bytes:
    """The exposition format; ``counts``: jobs by state."""
    for state in ("queued", "running", "stalled", "waiting", "done", "failed"):
        JOBS.labels(state).set(counts.get(state, 0))
    return generate_latest(REGISTRY)
