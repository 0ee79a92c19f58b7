"""A scrape, read with the monitoring library's own parsers."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Scraped:
    """Sample values by name and labels, as in `value("kheish_runs", status="queued")`."""

    def __init__(self, text: str, *, plain: bool = False) -> None:
        parse = plain_families if plain else text_string_to_metric_families
        self.types: dict[str, str] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in parse(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of a family with one label."""
        return {dict(labels)[label]: value for (found, labels), value in self.values.items() if found == name}

    def labelled(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a family: label values in the order of their names."""
        return {
            tuple(value for _, value in sorted(labels)): value
            for (found, labels), value in self.values.items()
            if found == name
        }

    def label_values(self) -> set[str]:
        return {value for _, labels in self.values for _, value in labels}
