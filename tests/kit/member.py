"""Nodes that run the chart's pod, each beside a containerd of its own, and what `fastmirror doctor` says in them."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass, field
from typing import Any

from tests.kit import helm
from tests.kit.containerd import Containerd
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.pod import Container, PodNode
from tests.kit.waiting import eventually


def rendered(node: Containerd) -> list[dict[str, Any]]:
    """The chart's objects for a node whose containerd is elsewhere than usual; all else is the default."""
    values = {
        "image": {"repository": "registry.example/team/fastmirror"},
        "config": {"resolve_tags": True, "lookup_timeout": "3s", "drain_timeout": "5s"},
        "configure": {"registries": ["_default", "registry.test"]},
        "containerd": {
            "socket": str(node.socket),
            "content": str(node.content),
            "certsDir": str(node.certs),
            "configDir": str(node.directory),
        },
    }
    return helm.render(values)


def object_of(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


@dataclass
class Member:
    """One node: its containerd, what the chart renders for it, and the pod that runs."""

    node: PodNode
    objects: list[dict[str, Any]]
    before: dict[str, bytes] = field(default_factory=dict)
    running: list[Container] = field(default_factory=list)

    @property
    def containerd(self) -> Containerd:
        return self.node.containerd

    @property
    def mirror(self) -> Container:
        return self.running[0]

    def pod(self, kind: str = "DaemonSet", name: str = "fastmirror") -> dict[str, Any]:
        spec: dict[str, Any] = object_of(self.objects, kind, name)["spec"]["template"]["spec"]
        return spec

    def start(self) -> None:
        """Start the pod; returns when the mirror serves and hosts.toml names it."""
        config = object_of(self.objects, "ConfigMap", "fastmirror")["data"]
        for container in self.pod()["containers"]:
            self.running.append(self.node.run(self.pod(), container["name"], config))
        self.mirror.log.wait("daemon.serving", 60)
        file = self.containerd.certs / "registry.test" / "hosts.toml"
        eventually(lambda: "127.0.0.1:5000" in file.read_text(), "hosts.toml names the mirror", 60)

    def stop(self) -> None:
        """End the pod as kubelet does: all containers at once."""
        for container in self.running:
            with contextlib.suppress(Exception):
                container.send(signal.SIGTERM)
        codes = [container.stop() for container in self.running]
        assert codes == [0] * len(codes), [container.log.lines[-5:] for container in self.running]
        self.running.clear()

    def files(self) -> dict[str, bytes]:
        """Everything below certs.d."""
        certs = self.containerd.certs
        return {str(path.relative_to(certs)): path.read_bytes() for path in certs.rglob("*") if path.is_file()}

    def peers(self) -> list[dict[str, Any]]:
        done = self.mirror.exec("/usr/bin/fastmirror", "peers", "-o", "json")
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return found


@dataclass
class Cluster:
    """The nodes and the registry."""

    members: list[Member]
    origin: Origin

    def publish(self, image: Image) -> None:
        image.write(self.origin.layout)

    def linked(self) -> bool:
        """Whether every mirror sees every other one."""
        return all(
            sum(peer["state"] == "live" for peer in member.peers()) == len(self.members) - 1 for member in self.members
        )


def doctor(member: Member, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """What `fastmirror doctor` says in the pod, as NOTES.txt has it run."""
    node = member.containerd
    line = ["doctor", "-o", "json", "--certs-dir", str(node.certs), "--registry", "registry.test"]
    done = member.mirror.exec(
        "/usr/bin/fastmirror", *line, "--containerd-config", str(node.directory / "config.toml"), *more
    )
    findings = json.loads(done.stdout)
    return done.returncode, {finding["check"]: finding for finding in findings}


def outcomes(member: Member, *more: str) -> dict[str, str]:
    return {check: finding["outcome"] for check, finding in doctor(member, *more)[1].items()}
