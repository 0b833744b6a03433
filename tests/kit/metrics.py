"""Reading a node's ``/metrics``."""

from __future__ import annotations

from tests.kit.process import Node
from tests.kit.wire import ask


def metric(node: Node, name: str, **labels: str) -> float:
    """The sum over the series of a metric that have these labels; AssertionError if there is none."""
    lines = ask(node.admin, "GET", "/metrics").body.decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.partition("{")[0].partition(" ")[0] == name and all(text in line for text in wanted)
    ]
    assert found, f"no metric {name} with {labels}"
    return sum(found)
