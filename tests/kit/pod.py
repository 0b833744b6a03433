"""Runs containers of a pod as the chart renders it, in a real containerd, as kubelet would: command line, user,
rights, mounts and variables are the pod's. What kubelet adds (the node's address, /etc/hosts) is given.

Source: OCI runtime specification; containerd's CRI plugin for the usual mounts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kit.built import Built
from tests.kit.containerd import Containerd
from tests.kit.process import Log

_numbers = itertools.count()
_SECCOMP = Path("/usr/share/containers/seccomp.json")  # as buildah's package has it: Docker's and CRI's default
NAMESPACE = "pods"
_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class PodNode:
    """A node that runs pods: its containerd with the image in it, and what kubelet would know of it.

    ``names`` are the hosts that its DNS knows; ``files`` what config maps hold, by volume and path.
    """

    def __init__(self, node: Containerd, built: Built, name: str, names: Mapping[str, Sequence[str]]) -> None:
        self.containerd = node
        self.name = name
        self.names = names
        self.built = built
        node.directory.chmod(0o755)
        node.root.chmod(0o755)  # the test's content directory lies below; a real one is mounted by itself
        node.ctr("images", "import", str(built.archive), namespace=NAMESPACE)
        (self.image,) = node.ctr("images", "ls", "-q", namespace=NAMESPACE).stdout.split()

    def ctr(self, *arguments: str) -> list[str]:
        """This node's ctr, as a command line."""
        program = str(self.containerd.generation.directory / "ctr")
        return [program, "-a", str(self.containerd.socket), "-n", NAMESPACE, *arguments]

    def run(self, pod: dict[str, Any], container: str, config: Mapping[str, str] | None = None) -> Container:
        """Start one container of a pod; ``config`` are the files of its config map."""
        spec = next(one for one in pod["containers"] if one["name"] == container)
        return Container(self, pod, spec, config or {})


class Container:
    """A running container. ``stop`` ends it; it is gone with its files then."""

    def __init__(self, node: PodNode, pod: dict[str, Any], spec: dict[str, Any], config: Mapping[str, str]) -> None:
        self.id = f"{spec['name']}{next(_numbers)}"
        self.node = node
        self._directory = node.containerd.directory / "pods" / self.id
        self._directory.mkdir(parents=True)
        self._root = self._directory / "rootfs"
        self._root.mkdir()
        mount = node.ctr("images", "mount", "--rw", node.image, str(self._root))
        subprocess.run(mount, check=True, capture_output=True)
        runtime = _Runtime(node, self._directory, self._root, config).spec(pod, spec)
        (self._directory / "spec.json").write_text(json.dumps(runtime))
        self._process = subprocess.Popen(
            node.ctr("run", "--rm", "--config", str(self._directory / "spec.json"), self.id),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.log = Log(self._process.stdout)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `kubectl exec` does."""
        line = self.node.ctr("task", "exec", "--exec-id", f"x{next(_numbers)}", self.id, *command)
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process."""
        subprocess.run(self.node.ctr("task", "kill", "-s", number.name, self.id), check=True, capture_output=True)

    def pids(self) -> list[int]:
        """Its processes, as this machine numbers them."""
        said = subprocess.run(self.node.ctr("task", "ps", self.id), capture_output=True, text=True, check=True).stdout
        return [int(line.split()[0]) for line in said.splitlines()[1:]]

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._process.wait(seconds)
        self.log.join()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and take away what it had; its exit code. Idempotent."""
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.send(number)
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            subprocess.run(self.node.ctr("task", "kill", "-s", "SIGKILL", self.id), check=False, capture_output=True)
            code = self.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._directory.exists():
            line = self.node.ctr("images", "unmount", "--rm", str(self._root))
            subprocess.run(line, check=False, capture_output=True)
            shutil.rmtree(self._directory, ignore_errors=True)
        return code

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Runtime:
    """Makes the runtime's specification of a container."""

    def __init__(self, node: PodNode, directory: Path, root: Path, config: Mapping[str, str]) -> None:
        self._node = node
        self._directory = directory
        self._root = root
        self._config = config

    def spec(self, pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
        """Everything; the network is that of containerd, as with hostNetwork."""
        rights = container["securityContext"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
        variables = dict(self._variables(container))
        own = self._node.built.config["config"]
        command = [*own["Entrypoint"], *(_expand(text, variables) for text in container["args"])]
        limit = container["resources"]["limits"]["memory"]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": rights["runAsUser"], "gid": rights["runAsGroup"]},
                "args": command,
                "env": [*own["Env"], *(f"{name}={text}" for name, text in variables.items())],
                "cwd": "/",
                "capabilities": {name: [] for name in ("bounding", "effective", "permitted")},
                "noNewPrivileges": not rights["allowPrivilegeEscalation"],
            },
            "root": {"path": str(self._root), "readonly": rights["readOnlyRootFilesystem"]},
            "hostname": self._node.name,
            "mounts": [*_USUAL, *sorted(self._mounts(pod, container), key=lambda mount: mount["destination"])],
            "linux": {
                "cgroupsPath": f"/fastmirror-test/{self._directory.name}-{os.getpid()}",
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
                "resources": {"memory": {"limit": int(limit[:-2]) * _UNITS[limit[-2:]]}},
                "seccomp": _seccomp() if pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault" else None,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/bus"],
            },
        }

    def _variables(self, container: dict[str, Any]) -> Iterator[tuple[str, str]]:
        fields = {"spec.nodeName": self._node.name, "status.hostIP": "127.0.0.1"}
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            yield variable["name"], variable.get("value") or fields.get(source, "")

    def _mounts(self, pod: dict[str, Any], container: dict[str, Any]) -> Iterator[dict[str, Any]]:
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            source = self._source(volumes[mount["name"]], mount.get("subPath"))
            options = ["rbind", "rprivate", "ro" if mount.get("readOnly") else "rw"]
            yield {"destination": mount["mountPath"], "type": "bind", "source": str(source), "options": options}
        hosts = self._directory / "hosts"
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, found in self._node.names.items() for address in found]
        hosts.write_text("\n".join(lines) + "\n")
        several = self._directory / "host.conf"
        several.write_text("multi on\n")  # all addresses of a name in that file, as DNS would give; host.conf(5)
        for path in (hosts, several):
            yield {"destination": f"/etc/{path.name}", "type": "bind", "source": str(path), "options": ["rbind", "ro"]}

    def _source(self, volume: dict[str, Any], inside: str | None) -> Path:
        if "hostPath" in volume:
            path = Path(volume["hostPath"]["path"])
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                path.mkdir(exist_ok=True)
            return path
        place: Path = self._directory / volume["name"]
        place.mkdir(exist_ok=True)
        if "configMap" in volume:
            for name, text in self._config.items():
                (place / name).write_text(text)
            return Path(place / inside if inside else place)
        assert "emptyDir" in volume, volume
        place.chmod(0o777)
        return Path(place)


def _expand(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text)


def _seccomp() -> dict[str, Any]:
    """The default profile for a container without capabilities, in the runtime's form."""
    profile = json.loads(_SECCOMP.read_text())
    machine, architecture = _ARCHITECTURES[os.uname().machine]
    calls = []
    for rule in profile["syscalls"]:
        only = rule.get("includes", {})
        if only.get("caps") or architecture not in (only.get("arches") or [architecture]):
            continue
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        calls.append(kept)
    return {"defaultAction": profile["defaultAction"], "architectures": [machine], "syscalls": calls}


_USUAL: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "nodev", "mode=1777", "size=65536k"],
    },
    {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro", "rprivate"]},
]
