"""Write what is generated below deploy/: ``python -m tools.gendeploy [--check]``.

- ``helm/fastmirror/values.schema.json``: ``config`` from the settings' type, the rest from values.yaml.
- ``helm/fastmirror/dashboards/fastmirror.json``: a Grafana dashboard of the metrics named here.
- ``manifests/*.yaml``: the chart's defaults, rendered.

With ``--check`` nothing is written; the exit code is 1 if a file is not what it should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from fastmirror.config.load import Field, fields

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
CHART: Final = DEPLOY / "helm" / "fastmirror"
PLACEHOLDER: Final = "registry.example/team/fastmirror"
_ALWAYS: Final = {"image": {"repository": PLACEHOLDER}, "namespace": {"create": True}}

_DURATION: Final = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)?$"
_SIZE: Final = r"^[0-9]+([KMGT]i?B?)?$"
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
_FREE: Final = {
    "commonLabels", "podAnnotations", "resources", "nodeSelector", "affinity", "updateStrategy", "seLinuxOptions",
    "labels",
}  # fmt: skip
_SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "exposure": {"enum": ["hostNetwork", "hostPort", "nodePort"]},
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "namespace.podSecurity": {"enum": ["privileged", "baseline", "restricted"]},
    "nodePort": {"type": "integer", "minimum": 1024, "maximum": 65535},
    "cleanup.port": _PORT,
    "cleanup.timeout": {"type": "string", "pattern": _DURATION},
    "containerd.socket": {"type": "string", "pattern": "^(/.+)?$"},
    "containerd.content": {"type": "string", "pattern": "^/.+$"},
    "containerd.certsDir": {"type": "string", "pattern": "^/.+$"},
    "containerd.configDir": {"type": "string", "pattern": "^(/.+)?$"},
    "configure.registries": {"type": "array", "items": {"type": "string", "minLength": 1}},
}


def setting(field: Field) -> dict[str, Any]:
    """What a setting may be, as JSON Schema."""
    made: dict[str, Any] = {"description": field.help}
    if field.choices:
        return {**made, "enum": list(field.choices)}
    if field.many:
        return {**made, "type": "array", "items": {"type": "string", "minLength": 1}}
    limits = _limits(field)
    match field.form:
        case "seconds":
            return {**made, "anyOf": [{"type": "number", **limits}, {"type": "string", "pattern": _DURATION}]}
        case "bytes":
            return {**made, "anyOf": [{"type": "integer", **limits}, {"type": "string", "pattern": _SIZE}]}
        case "count" | "nodes":
            return {**made, "type": "integer", **limits}
        case "true/false":
            return {**made, "type": "boolean"}
    return {**made, "type": "string"}


def _limits(field: Field) -> dict[str, float]:
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    metas = [meta for meta in getattr(field.type, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return {name: value for meta in metas for key, name in names.items() if (value := getattr(meta, key)) is not None}


def schema() -> dict[str, Any]:
    """What the chart's values may be."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    made = _shape(values, "")
    config = {field.name: setting(field) for field in fields()}
    made["properties"]["config"] = {"type": "object", "additionalProperties": False, "properties": config}
    made["properties"]["global"] = {"type": "object"}  # Helm gives it to every chart
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "fastmirror", **made}


def _shape(value: object, path: str) -> dict[str, Any]:
    if path in _SPECIAL:
        return _SPECIAL[path]
    if isinstance(value, dict):
        if path.rpartition(".")[2] in _FREE:
            return {"type": "object"}
        inner = {key: _shape(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": inner}
    if isinstance(value, list):
        return {"type": "array"}
    return {"type": {bool: "boolean", int: "integer", str: "string"}[type(value)]}


def _rate(metric: str, by: str = "", where: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{f'{{{where}}}' if where else ''}[5m]))"


def _quantile(q: float, metric: str, where: str = "") -> str:
    return f"histogram_quantile({q}, {_rate(f'{metric}_bucket', 'le', where)})"


_HERE: Final = "listener='registry'"
_PANELS: Final = (
    ("Where pulls are answered from", "ops", (_rate("fastmirror_pulls_total", "source", _HERE),)),
    ("Bytes to this node's containerd", "Bps", (_rate("fastmirror_pull_bytes_total", "source", _HERE),)),
    ("Bytes to other nodes", "Bps", (_rate("fastmirror_pull_bytes_total", where="listener='peer'"),)),
    ("Bytes from other nodes", "Bps", (_rate("fastmirror_fetched_bytes_total"),)),
    ("What peers did", "ops", (_rate("fastmirror_peer_outcomes_total", "outcome"),)),
    ("Other nodes", "short", ("sum by (state) (fastmirror_peers)", "sum(fastmirror_router_links)")),
    (
        "Time to the answer for what is not here (p50, p99)",
        "s",
        tuple(_quantile(q, "fastmirror_elsewhere_seconds", "source='peers'") for q in (0.5, 0.99)),
    ),
    (
        "Not as it should be",
        "ops",
        (
            _rate("fastmirror_digest_mismatches_total"),
            _rate("fastmirror_hangups_total"),
            _rate("fastmirror_fetches_turned_away_total", "limit"),
            _rate("fastmirror_router_restarts_total"),
        ),
    ),
    ("Ready", "short", ("sum(fastmirror_ready)", "count(fastmirror_ready)")),
    ("Spool", "bytes", ("sum(fastmirror_spool_bytes)",)),
    ("Memory of the data plane", "bytes", ("max(process_resident_memory_bytes{job=~'.*fastmirror.*'})",)),
    ("Event loop late (p99)", "s", (_quantile(0.99, "fastmirror_loop_lag_seconds"),)),
)


def dashboard() -> dict[str, Any]:
    """A Grafana dashboard, two panels to a row."""
    panels = [
        {
            "id": number + 1,
            "title": title,
            "type": "timeseries",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [{"refId": chr(65 + index), "expr": query} for index, query in enumerate(queries)],
        }
        for number, (title, unit, queries) in enumerate(_PANELS)
    ]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return {
        "title": "fastmirror", "uid": "fastmirror", "schemaVersion": 39, "tags": ["fastmirror"], "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"}, "templating": {"list": [source]}, "panels": panels,
    }  # fmt: skip


def render(values: dict[str, Any], *, name: str = "fastmirror", namespace: str = "fastmirror") -> Iterator[Any]:
    """The objects that the chart makes of these values, its hooks too. Raises helm_python.HelmError."""
    from helm_python import Chart  # here: it is 240 MB, and only x86-64 has it

    chart = Chart.load(str(CHART))
    try:
        chart.validate_schema(values)
        rendered = chart.render(values=values, name=name, namespace=namespace, is_install=True)
    finally:
        chart.close()
    for path, text in sorted(rendered.items()):
        if path.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(text))


def manifests() -> dict[str, str]:
    """The plain manifests, by file name: what is applied, and what is applied to take it away."""
    hooks, objects = [], []
    for item in render(_ALWAYS):
        annotations = item["metadata"].get("annotations", {})
        hooks.append(item) if "helm.sh/hook" in annotations else objects.append(item)
        for key in [key for key in annotations if key.startswith("helm.sh/")]:
            del annotations[key]
        _plain(item["metadata"])
        if "template" in item.get("spec", {}):
            _plain(item["spec"]["template"]["metadata"])
    order = ["Namespace", "ServiceAccount", "ConfigMap", "Service", "DaemonSet", "Job"]
    head = (
        "# Rendered from deploy/helm/fastmirror by tools/gendeploy.py: change it there. Put your image in its place.\n"
    )
    made = {}
    for file, items in (("fastmirror.yaml", objects), ("cleanup.yaml", hooks)):
        items.sort(key=lambda item: order.index(item["kind"]))
        made[file] = head + yaml.dump_all(items, Dumper=_Dumper, sort_keys=False)
    return made


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _plain(metadata: dict[str, Any]) -> None:
    for key in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        metadata.get("labels", {}).pop(key, None)
    if not metadata.get("annotations", True):
        del metadata["annotations"]


def generated() -> dict[Path, str]:
    """Every generated file and what is to be in it."""
    made = {CHART / "values.schema.json": json.dumps(schema(), indent=2) + "\n"}
    made[CHART / "dashboards" / "fastmirror.json"] = json.dumps(dashboard(), indent=2) + "\n"
    return made | {DEPLOY / "manifests" / name: text for name, text in manifests().items()}


def main() -> int:
    """Write the files, or compare them."""
    code = 0
    for path, text in generated().items():
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(DEPLOY.parent)} is not up to date; run: make docs", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
