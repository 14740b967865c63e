"""Which metrics there are, and which of them a PromQL expression asks for."""

import re

from fastrouter.telemetry.families import FAMILIES

# What others tell: Prometheus itself, kube-state-metrics.
FOREIGN = {"kube_pod_status_ready", "kube_pod_container_status_restarts_total"}
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
# Metric -> the labels that the router gives it.
LABELS = {
    family.sample + suffix: {*family.labels, *(["le"] if suffix == "_bucket" else [])}
    for family in FAMILIES
    for suffix in SUFFIXES[family.kind]
}
# What Prometheus adds to every series.
OF_THE_TARGET = {"namespace", "pod", "instance", "job"}


def metrics_of(expression: str) -> set[str]:
    """Every metric that an expression asks for: names that no quotes and no brackets of a call go with."""
    bare = re.sub(r"\"[^\"]*\"", '""', expression)
    found = re.findall(r"\b(?:sandbox_router|process|kube|go|python)_[a-z_0-9]+\b", bare)
    return set(found)


def labels_of(expression: str) -> set[str]:
    """Every label that an expression selects or groups by."""
    found: set[str] = set()
    for selector in re.findall(r"\{([^}]*)\}", expression):
        found.update(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", re.sub(r"\"[^\"]*\"", '""', selector)))
    for grouping in re.findall(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)", expression):
        found.update(re.findall(r"[a-z_]+", grouping))
    return found


def unknown_labels(expression: str) -> set[str]:
    """What an expression selects or groups by that none of its metrics has."""
    of_metrics = set().union(*(LABELS.get(metric, set()) for metric in metrics_of(expression)))
    return labels_of(expression) - of_metrics - OF_THE_TARGET
