"""The chart: what it makes of values, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from fastmirror.config import Settings
from fastmirror.config.load import Loaded, fields, load
from fastmirror.containerd.hosts import mirror_url
from fastmirror.observe.metrics import Metrics
from tests.kit import helm
from tools import gendeploy

EXPOSURES = ("hostNetwork", "hostPort", "nodePort")
KUBERNETES = [f"1.{minor}" for minor in range(28, 38)]
CHART = gendeploy.CHART
OPTIONS = ("networkPolicy", "podMonitor", "serviceMonitor", "prometheusRule", "grafanaDashboard")
EVERYTHING = {
    **{option: {"enabled": True} for option in OPTIONS},
    "admissionSecret": {"name": "admission"},
    "seLinuxOptions": {"type": "spc_t"},
    "zoneFromPodLabel": True,
    "imagePullSecrets": [{"name": "pull"}],
    "configure": {"registries": ["docker.io"], "replace": True},
    "commonLabels": {"team": "a"},
    "podAnnotations": {"a": "b"},
    "affinity": {"nodeAffinity": {}},
    "namespace": {"create": True},
}
SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "without the socket": {"containerd": {"socket": ""}},
    "elsewhere": {"containerd": {"certsDir": "/etc/cri/conf.d/hosts", "configDir": ""}},
    "left alone": {"configure": {"enabled": False}, "cleanup": {"enabled": False}},
}


def values(**more: Any) -> dict[str, Any]:
    return {"image": {"repository": "registry.example/team/fastmirror"}, **more}


def objects(**more: Any) -> list[dict[str, Any]]:
    return helm.render(values(**more))


def one(kind: str, found: list[dict[str, Any]], ending: str = "") -> dict[str, Any]:
    (item,) = [item for item in found if item["kind"] == kind and item["metadata"]["name"].endswith(ending)]
    return item


def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod of the mirror's DaemonSet."""
    (daemon,) = [item for item in found if item["kind"] == "DaemonSet" and "annotations" not in item["metadata"]]
    spec: dict[str, Any] = daemon["spec"]["template"]["spec"]
    return spec


def settings(found: list[dict[str, Any]], path: Path) -> Loaded:
    file = path / "config.toml"
    file.write_text(one("ConfigMap", found, "fastmirror")["data"]["config.toml"])
    return load({}, {}, str(file))


@pytest.fixture(params=[(e, s) for e in EXPOSURES for s in SETS], ids=lambda pair: f"{pair[0]}, {pair[1]}")
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of each exposure with each set of values."""
    exposure, name = request.param
    return objects(exposure=exposure, **SETS[name])


def test_what_is_generated_is_up_to_date() -> None:
    command = [sys.executable, "-m", "tools.gendeploy", "--check"]
    checked = subprocess.run(command, cwd=CHART.parents[2], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_chart_has_the_programs_version() -> None:
    from fastmirror import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_helm_finds_nothing_to_complain_about() -> None:
    said = helm.lint(values())
    assert [message for message in said if message["severity"] > 1] == []  # 1: it would like an icon


@pytest.fixture(scope="module")
def distinct() -> list[dict[str, Any]]:
    """Every object that differs from the others, in every exposure with every set of values."""
    made = {
        json.dumps(item): item for e in EXPOSURES for chosen in SETS.values() for item in objects(exposure=e, **chosen)
    }
    return [item for item in made.values() if not item["apiVersion"].startswith("monitoring.coreos.com/")]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(version: str, distinct: list[dict[str, Any]]) -> None:
    assert len(distinct) > 30
    for item in distinct:
        kubernetes_validate.validate(item, version, strict=True)


def test_kubernetes_schema_is_looked_at_strictly(distinct: list[dict[str, Any]]) -> None:
    wrong = {**distinct[0], "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


class TestRefusals:
    """Helm itself refuses a wrong value, before anything is installed."""

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"config": {"log_levl": "info"}}, "log_levl"),
            ({"config": {"log_level": "loud"}}, "log_level"),
            ({"config": {"max_fetches": 0}}, "max_fetches"),
            ({"config": {"max_fetches": "many"}}, "max_fetches"),
            ({"config": {"stall_timeout": "soon"}}, "stall_timeout"),
            ({"config": {"spool_bytes": "16 GB"}}, "spool_bytes"),
            ({"config": {"peers": "10.0.0.1:5001"}}, "peers"),
            ({"exposure": "host"}, "exposure"),
            ({"exposures": "hostPort"}, "exposures"),
            ({"nodePort": 99999}, "nodePort"),
            ({"image": {"repository": "r.example/f", "digest": "sha256:12"}}, "digest"),
            ({"containerd": {"socket": "run/containerd.sock"}}, "socket"),
            ({"cleanup": {"timeout": "long"}}, "timeout"),
        ],
        ids=str,
    )
    def test_a_wrong_value(self, wrong: dict[str, Any], said: str) -> None:
        with pytest.raises(helm.Refused, match=said):
            helm.render({**values(), **wrong})

    def test_no_image(self) -> None:
        with pytest.raises(helm.Refused, match="say where you pushed fastmirror's image"):
            helm.render({})


class TestSettings:
    """The configuration file that the chart writes is one that fastmirror takes."""

    def test_every_rendered_file_is_valid(self, found: list[dict[str, Any]], tmp_path: Path) -> None:
        chosen = settings(found, tmp_path).settings
        assert chosen.router.joins
        assert chosen.fetch.spool_dir == "/var/spool/fastmirror"

    def test_config_is_exactly_the_files_keys_and_each_arrives_as_it_was_given(self, tmp_path: Path) -> None:
        schema = gendeploy.schema()["properties"]["config"]
        assert set(schema["properties"]) == {field.name for field in fields()}
        assert not schema["additionalProperties"]
        given = dict(_other_values())
        assert set(given) == {field.name for field in fields()}
        text = one("ConfigMap", objects(config=given), "fastmirror")["data"]["config.toml"]
        assert tomllib.loads(text) == given
        for name, value in given.items():
            loaded = settings(objects(config={name: value}), tmp_path)
            assert loaded.origins[name].kind == "file"

    def test_the_spool_is_smaller_than_its_volume_and_the_drain_shorter_than_the_grace_period(
        self, tmp_path: Path
    ) -> None:
        sizes: tuple[Any, ...] = ("16GiB", 1 << 30, "512MiB", "17179869184")
        for spool, drain in zip(sizes, ("25s", 40, "2m", "500ms"), strict=True):
            made = objects(config={"spool_bytes": spool, "drain_timeout": drain})
            chosen, spec = settings(made, tmp_path).settings, pod(made)
            volume = next(volume for volume in spec["volumes"] if volume["name"] == "spool")
            assert int(volume["emptyDir"]["sizeLimit"]) >= chosen.fetch.spool_bytes * 9 // 8
            assert spec["terminationGracePeriodSeconds"] >= chosen.serve.drain_timeout + 5

    def test_resolving_tags_is_said_once(self) -> None:
        spec = pod(objects(config={"resolve_tags": True}))
        assert "--resolve-tags" in spec["containers"][1]["args"]
        assert "--resolve-tags" not in pod(objects())["containers"][1]["args"]


def _other_values() -> Iterator[tuple[str, object]]:
    """For each setting a value that is valid by itself and beside the chart's own."""
    examples: dict[str, object] = {
        "store": ["content:/var/lib/other"],
        "peers": ["10.0.0.9:5001"],
        "bootstrap": ["10.0.0.9:5003"],
        "router": "static",
        "peer_cidr": ["10.0.0.0/8"],
        "allow_peer_id": ["12D3KooW" + "A" * 44],
        "allow": ["docker.io"],
        "deny": ["a.example"],
        "registry_addr": "127.0.0.1:6000",
        "peer_addr": "0.0.0.0:6001",
        "admin_addr": "0.0.0.0:6002",
        "router_addr": "0.0.0.0:6003",
        "default_registry": "docker.io",
    }
    defaults = Settings()
    for field in fields():
        default = getattr(getattr(defaults, field.section), field.name)
        if field.name in examples:
            yield field.name, examples[field.name]
        elif field.choices:
            yield field.name, field.choices[-1]
        elif isinstance(default, str):
            yield field.name, "other"
        else:
            yield field.name, not default if isinstance(default, bool) else default or 1


class TestSecurity:
    """What must hold for every pod, whatever the values."""

    def test_no_pod_has_more_rights_than_it_needs(self, found: list[dict[str, Any]]) -> None:
        specs = [item["spec"]["template"]["spec"] for item in found if "template" in item.get("spec", {})]
        assert specs
        for spec in specs:
            assert spec["automountServiceAccountToken"] is False
            assert spec["enableServiceLinks"] is False
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & set(spec)
            for container in spec["containers"]:
                rights = container["securityContext"]
                assert rights["allowPrivilegeEscalation"] is False
                assert rights["readOnlyRootFilesystem"] is True
                assert rights["capabilities"] == {"drop": ["ALL"]}
                assert "privileged" not in rights
                assert container["resources"]["requests"]["memory"]
                assert container["resources"]["limits"]["memory"]
        roots = {c["name"] for s in specs for c in s["containers"] if c["securityContext"]["runAsUser"] == 0}
        assert roots <= {"configure", "cleanup"}

    def test_the_mirror_writes_nothing_of_the_node(self, found: list[dict[str, Any]]) -> None:
        spec = pod(found)
        of_node = {volume["name"] for volume in spec["volumes"] if "hostPath" in volume}
        mirror = spec["containers"][0]
        assert mirror["securityContext"]["runAsNonRoot"] is True
        assert [m["name"] for m in mirror["volumeMounts"] if m["name"] in of_node and not m.get("readOnly")] == []

    def test_who_writes_certs_d_sees_nothing_else(self, found: list[dict[str, Any]]) -> None:
        for item in found:
            for container in item.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                if container["securityContext"]["runAsUser"] == 0:
                    assert [mount["name"] for mount in container["volumeMounts"]] == ["certs"]

    def test_every_mount_has_its_volume_and_the_other_way_round(self, found: list[dict[str, Any]]) -> None:
        for item in found:
            spec = item.get("spec", {}).get("template", {}).get("spec", {})
            mounted = {mount["name"] for c in spec.get("containers", []) for mount in c.get("volumeMounts", [])}
            there = {volume["name"] for volume in spec.get("volumes", [])}
            assert mounted <= there
            assert there - mounted <= {"certs"}  # seen through containerd's directory

    def test_in_the_nodes_network_only_the_node_itself_reaches_the_registry(self, tmp_path: Path) -> None:
        made = objects()
        chosen = settings(made, tmp_path).settings.serve
        assert chosen.registry_addr.startswith("127.0.0.1:")
        assert chosen.admin_addr.startswith("127.0.0.1:")
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod(made)["containers"][0][name]["httpGet"]["host"] == "127.0.0.1"

    @pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7", "[fd00::7]"])
    @pytest.mark.parametrize("exposure", EXPOSURES[1:])
    def test_a_nodes_address_of_either_family_makes_a_url(self, exposure: str, address: str) -> None:
        """Kubernetes gives status.hostIP without brackets."""
        made = objects(exposure=exposure, nodeAddress=address)
        containers = pod(made)["containers"]
        (given,) = [text for text in containers[1]["args"] if text.startswith("--mirror=")]
        (node_ip,) = [item["value"] for item in containers[1]["env"] if item["name"] == "NODE_IP"]
        url = urlsplit(mirror_url(given.removeprefix("--mirror=").replace("$(NODE_IP)", node_ip)))
        assert url.hostname == address.strip("[]")
        assert url.port == (30500 if exposure == "nodePort" else 5000)

    def test_one_object_in_ten_nodes_changes_at_a_time_and_every_node_is_tolerated(self) -> None:
        made = objects()
        daemon = one("DaemonSet", made, "fastmirror")
        assert daemon["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
        assert pod(made)["tolerations"] == [{"operator": "Exists"}]
        assert pod(made)["priorityClassName"] == "system-node-critical"
        assert one("Service", made, "-peers")["spec"]["publishNotReadyAddresses"] is True


def test_every_metric_that_the_dashboard_and_the_alerts_name_exists() -> None:
    made = objects(**EVERYTHING)
    text = one("ConfigMap", made, "-dashboard")["data"]["fastmirror.json"]
    text += yaml.safe_dump(one("PrometheusRule", made)["spec"])
    named = set(re.findall(r"\bfastmirror_[a-z_]+", text))
    there = {family.name for group in vars(Metrics()).values() for family in vars(group).values()}
    assert len(named) > 15
    assert {name for name in named if name.removesuffix("_bucket") not in there} == set()
    labels = {name for group in vars(Metrics()).values() for f in vars(group).values() for name in f.labels}
    by = {word for inside in re.findall(r"\b(?:by|without) \(([a-z, ]+)\)", text) for word in inside.split(", ")}
    assert by - labels == {"le"}


def test_monitoring_opens_the_admin_listener_and_finds_its_port() -> None:
    made = objects(podMonitor={"enabled": True})
    assert 'admin_addr = "0.0.0.0:5002"' in one("ConfigMap", made, "fastmirror")["data"]["config.toml"]
    ports = {port["name"]: port["containerPort"] for port in pod(made)["containers"][0]["ports"]}
    assert one("PodMonitor", made)["spec"]["podMetricsEndpoints"][0]["port"] in ports
    assert "host" not in pod(made)["containers"][0]["readinessProbe"]["httpGet"]
