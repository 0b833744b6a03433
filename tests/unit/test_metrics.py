"""The table of metrics and its text for Prometheus."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastmirror.fetch.peerbook import Health
from fastmirror.http.outcome import PeerOutcome
from fastmirror.observe.exposition import render
from fastmirror.observe.instruments import BUCKETS, Cell, Distribution, Family
from fastmirror.observe.metrics import OUTCOMES, PEER_STATES, Metrics

ROOT = Path(__file__).parents[2]


def scrape(metrics: Metrics) -> dict[str, float]:
    text = b"".join(render(metrics)).decode()
    return {
        sample.name + ",".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_series_is_there_from_the_start_so_that_rates_are_right():
    found = scrape(Metrics())
    assert found["fastmirror_pulls_total|listener=registry,|source=peers"] == 0
    assert found["fastmirror_lookup_seconds_bucket|le=+Inf,|result=found"] == 0
    assert len(found) > 100


def test_counted_and_followed_values_are_shown():
    metrics = Metrics()
    metrics.pull.pulls.at("none", "registry").inc()
    metrics.pull.pulls.at("none", "registry").inc(2)
    held = [5]
    metrics.fetch.active.at().follow(lambda: held[0])
    found = scrape(metrics)
    assert found["fastmirror_pulls_total|listener=registry,|source=none"] == 3
    assert found["fastmirror_fetches_active"] == 5
    held[0] = 6
    assert scrape(metrics)["fastmirror_fetches_active"] == 6


def test_histograms_are_cumulated_and_count_values_on_a_bound_below_it():
    metrics = Metrics()
    series = metrics.fetch.lookup_seconds.at("found")
    for seconds in (0.0, BUCKETS[0], 0.003, 1e9):
        series.observe(seconds)
    found = scrape(metrics)
    buckets = [
        value
        for name, value in found.items()
        if name.startswith("fastmirror_lookup_seconds_bucket") and "=found" in name
    ]
    assert buckets == sorted(buckets)
    assert found["fastmirror_lookup_seconds_bucket|le=0.001,|result=found"] == 2
    assert found["fastmirror_lookup_seconds_bucket|le=60.0,|result=found"] == 3
    assert found["fastmirror_lookup_seconds_count|result=found"] == 4


def test_a_label_value_outside_the_declared_set_is_a_bug():
    with pytest.raises(KeyError):
        Metrics().pull.pulls.at("docker.io", "registry")


def test_the_label_values_are_those_of_what_is_counted():
    assert set(OUTCOMES) == set(PeerOutcome)
    assert Health._fields == PEER_STATES


def test_names_follow_the_rules_and_are_unique():
    families: list[Family[Cell] | Family[Distribution]] = list(Metrics())
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert re.fullmatch(r"fastmirror_[a-z][a-z_]*[a-z]", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert (family.kind != "histogram") or family.name.endswith("_seconds")
        assert family.help.endswith(".")


def test_only_the_process_is_measured_besides_our_own_metrics():
    names = {name.partition("|")[0] for name in scrape(Metrics())}
    assert {name.partition("_")[0] for name in names} == {"fastmirror", "process"}
    assert "process_open_fds" in names


def test_the_generated_docs_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, "-m", "tools.gendocs", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
