"""What the pages on installing say is there: values, settings, metrics, flags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fastmirror.cli import fastmirror
from fastmirror.config.load import fields
from fastmirror.observe.metrics import Metrics
from tests.kit import helm
from tools.gendeploy import CHART

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / name for name in ("install.md", "distributions.md", "from-spegel.md")]


def test_every_setting_value_and_metric_that_is_named_exists() -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    settings = {field.name for field in fields()}
    metrics = {family.name for group in vars(Metrics()).values() for family in vars(group).values()}
    seen = 0
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`config\.([a-z_]+)", text):
            assert name in settings, f"{page.name}: config.{name}"
            seen += 1
        for name in re.findall(r"\bfastmirror_[a-z_]+", text):
            assert name in metrics, f"{page.name}: {name}"
            seen += 1
        for outer, inner in re.findall(r"`(configure|cleanup|containerd|namespace|podMonitor)\.([A-Za-z]+)[`:]", text):
            assert inner == "yaml" or inner in values[outer], f"{page.name}: {outer}.{inner}"  # cleanup.yaml is a file
            seen += 1
    assert seen > 30


def test_every_snippet_of_values_is_one_that_the_chart_takes() -> None:
    snippets = [
        yaml.safe_load(text) for page in PAGES for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    ours = [snippet for snippet in snippets if set(snippet) == {"containerd"}]
    assert len(ours) == 3
    for snippet in ours:
        assert helm.render({"image": {"repository": "registry.example/f"}, **snippet})


def test_every_flag_of_ours_in_the_map_exists() -> None:
    text = (DOCS / "from-spegel.md").read_text().partition("## Command line")[2].partition("## Metrics")[0]
    there = {option for command in fastmirror.commands.values() for p in command.params for option in p.opts}
    ours = {
        flag
        for row in text.splitlines()
        if row.startswith("| `")
        for flag in re.findall(r"--[a-z-]+", row.split("|")[2])
    }
    assert len(ours) > 6
    assert ours <= there
