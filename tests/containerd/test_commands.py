"""configure, cleanup and doctor as a user types them, beside real containerds and a real mirror."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.cluster import free_port
from tests.kit.containerd import Containerd, write_hosts
from tests.kit.images import Image
from tests.kit.metrics import metric
from tests.kit.origin import Origin
from tests.kit.process import Log, Node, Setup, environment
from tests.kit.waiting import eventually

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")


def fastmirror(*arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as root, or as a user without rights."""
    before = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    line = [*before, sys.executable, "-m", "fastmirror", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=60, check=False)


@pytest.fixture
def mirror(shared: Containerd) -> Iterator[Node]:
    with Node(Setup(f"containerd:{shared.socket}", flags={"drain_timeout": "1s"})) as node:
        yield node


def url(mirror: Node) -> str:
    return f"http://{mirror.registry[0]}:{mirror.registry[1]}"


def configured(node: Containerd, mirror: Node, *flags: str) -> subprocess.CompletedProcess[str]:
    return fastmirror("configure", "--certs-dir", str(node.certs), "--mirror", url(mirror), *flags)


@pytest.fixture(autouse=True)
def clean(shared: Containerd) -> Iterator[None]:
    yield
    subprocess.run(["rm", "-rf", str(shared.certs)], check=True)
    shared.certs.mkdir()


class TestConfigure:
    @pytest.mark.parametrize("client", CLIENTS)
    def test_containerd_asks_the_mirror_first_and_then_what_was_there(
        self, shared: Containerd, mirror: Node, source: Origin, fresh_image: Make, client: str
    ) -> None:
        image = fresh_image()
        image.write(source.layout)
        write_hosts(shared, "registry.test", [], source.url)
        before = (shared.certs / "registry.test/hosts.toml").read_bytes()
        done = configured(shared, mirror, "--registry", "registry.test", "--resolve-tags")
        assert done.returncode == 0, done.stderr
        pulled = shared.pull(client, image.name)
        assert pulled, pulled
        asked = metric(mirror, "fastmirror_pulls_total")
        assert asked >= 5
        eventually(lambda: mirror.ask("HEAD", _tag(image)).status == 200, "the mirror knows the tag")
        source.off()
        pulled = shared.pull(client, image.name)
        assert pulled, pulled
        done = fastmirror("cleanup", "--certs-dir", str(shared.certs))
        assert done.returncode == 0, done.stderr
        assert (shared.certs / "registry.test/hosts.toml").read_bytes() == before
        assert os.listdir(shared.certs) == ["registry.test"]

    @pytest.mark.parametrize("client", CLIENTS)
    def test_default_is_for_registries_without_a_directory(
        self, shared: Containerd, mirror: Node, fresh_image: Make, tmp_path: Path, client: str
    ) -> None:
        """Only the mirror is there: what it does not have, nobody has."""
        image = fresh_image()
        shared.load(image.write_archive(tmp_path / "image.tar"))
        done = configured(shared, mirror, "--resolve-tags")
        assert done.returncode == 0, done.stderr
        eventually(lambda: mirror.ask("HEAD", _tag(image)).status == 200, "the mirror knows the tag")
        pulled = shared.pull(client, image.name)
        assert pulled, pulled

    @pytest.mark.parametrize("directory", ["registry.test:5000", "registry.test_5000_"])
    def test_a_registry_with_a_port_is_found_by_either_name_of_its_directory(
        self, shared: Containerd, mirror: Node, directory: str
    ) -> None:
        if directory.endswith("_"):
            (shared.certs / directory).mkdir()
        done = configured(shared, mirror, "--registry", "http://registry.test:5000", "--resolve-tags")
        assert done.returncode == 0, done.stderr
        assert os.listdir(shared.certs / directory) == ["hosts.toml"]
        missed = metric(mirror, "fastmirror_pulls_total")
        assert not shared.pull("cri", "registry.test:5000/t/none:1")
        assert metric(mirror, "fastmirror_pulls_total") > missed

    @pytest.mark.any_generation
    def test_a_port_that_is_not_fastmirrors_is_refused(self, shared: Containerd, source: Origin) -> None:
        for address, what in ((source.url, "something else answers"), ("http://127.0.0.1:9", "nothing listens there")):
            done = fastmirror("configure", "--certs-dir", str(shared.certs), "--mirror", address)
            assert done.returncode == 1
            assert "nothing was changed" in done.stderr
            assert what in done.stderr
        assert os.listdir(shared.certs) == []

    @pytest.mark.any_generation
    def test_a_list_of_directories_is_refused(self, shared: Containerd) -> None:
        done = fastmirror("configure", "--certs-dir", f"{shared.certs}:/etc/docker/certs.d", "--dry-run")
        assert done.returncode == 2
        assert "expected one directory" in done.stderr

    @pytest.mark.any_generation
    def test_a_port_that_says_nothing_is_refused(self, shared: Containerd) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            done = fastmirror("configure", "--certs-dir", str(shared.certs), "--mirror", address)
        assert done.returncode == 1
        assert "takes connections and does not answer" in done.stderr

    @pytest.mark.any_generation
    def test_a_dry_run_changes_nothing_and_needs_no_mirror(self, shared: Containerd) -> None:
        done = fastmirror("configure", "--certs-dir", str(shared.certs), "--dry-run", "--diff")
        assert done.returncode == 0
        assert '+[host."http://127.0.0.1:5000"]' in done.stdout
        assert "would be written" in done.stdout
        assert os.listdir(shared.certs) == []

    @pytest.mark.any_generation
    def test_a_watch_waits_for_the_mirror_takes_out_a_stuck_one_and_ends_on_sigterm(self, shared: Containerd) -> None:
        port = free_port("127.0.0.1")
        line = ["configure", "--certs-dir", str(shared.certs), "--mirror", f"http://127.0.0.1:{port}", "--watch"]
        process = subprocess.Popen(
            [sys.executable, "-m", "fastmirror", *line], stderr=subprocess.PIPE, env=environment(), text=False
        )
        assert process.stderr is not None
        log = Log(process.stderr)
        file = shared.certs / "_default/hosts.toml"
        try:
            log.wait("configure.mirror_probed")
            assert not file.exists()
            with Node(Setup(f"containerd:{shared.socket}", registry_port=port)) as node:
                eventually(file.exists, "the file is written once the mirror answers", 20)
                file.unlink()
                eventually(file.exists, "the file is written again", 20)
                node.freeze()
                eventually(lambda: not file.exists(), "the file is taken out while the mirror is stuck", 30)
                node.thaw()
                eventually(file.exists, "the file is back with the mirror", 30)
            process.terminate()
            assert process.wait(10) == 0
            assert file.exists()
            log.join()
            assert log.problems() == []
        finally:
            process.kill()
            process.wait()
            log.join()
            process.stderr.close()


def _tag(image: Image) -> str:
    repository, _, tag = image.name.partition("/")[2].rpartition(":")
    return f"/v2/{repository}/manifests/{tag}?ns=registry.test"


class TestDoctor:
    def examine(self, node: Containerd, mirror: Node | None, *flags: str, user: int = 0) -> dict[str, dict[str, Any]]:
        """The findings by check, after the exit code was compared with them."""
        address = url(mirror) if mirror is not None else "http://127.0.0.1:9"
        line = ["doctor", "-o", "json", "--store", f"containerd:{node.socket}", "--certs-dir", str(node.certs)]
        line += ["--containerd-config", str(node.directory / "config.toml"), "--mirror", address]
        done = fastmirror(*line, *flags, user=user)
        findings = json.loads(done.stdout)
        outcomes = {finding["outcome"] for finding in findings}
        assert done.returncode == (1 if "problem" in outcomes else 3 if "unseen" in outcomes else 0), done.stderr
        for finding in findings:
            assert finding["what"]
            assert (finding["outcome"] == "fine") == (not finding["why"] and not finding["mend"])
        return {finding["check"]: finding for finding in findings}

    def test_a_node_where_all_is_well(
        self, shared: Containerd, mirror: Node, fresh_image: Make, tmp_path: Path
    ) -> None:
        shared.load(fresh_image().write_archive(tmp_path / "image.tar"))
        assert configured(shared, mirror).returncode == 0
        eventually(lambda: metric(mirror, "fastmirror_blobs") >= 5, "the mirror has the image")
        peer = f"{mirror.peer[0]}:{mirror.peer[1]}"
        found = self.examine(shared, mirror, "--peers", peer, "--peer-addr", peer, "--probe", "--spool-bytes", "8MiB")
        assert {check: finding["outcome"] for check, finding in found.items()} == {
            "containerd": "fine",
            "config_path": "fine",
            "probe": "fine",
            "discard_unpacked_layers": "fine",
            "concurrent_layer_fetch_buffer": "fine",
            "namespace": "fine",
            "content": "fine",
            "hosts.toml of _default": "fine",
            "spool": "fine",
            "mirror": "fine",
            "end to end": "fine",
            "peer listener": "note",
            f"peer {peer}": "fine",
        }
        assert os.listdir(shared.certs / "_default") == ["hosts.toml"]
        assert not (shared.certs / "fastmirror.invalid").exists()

    def test_what_is_wrong_is_named_with_why_and_how_to_mend_it(self, shared: Containerd, source: Origin) -> None:
        write_hosts(shared, "registry.test", [], source.url)
        (shared.certs / "hidden.test").mkdir()
        found = self.examine(shared, None, "--peers", "127.0.0.1:9")
        assert found["mirror"]["outcome"] == "problem"
        assert found["hosts.toml of _default"]["mend"].startswith("fastmirror configure --mirror http://127.0.0.1:9")
        assert "--registry registry.test" in found["hosts.toml of registry.test"]["mend"]
        assert "hides _default" in found["hosts.toml of hidden.test"]["what"]
        assert "Connection refused" in found["peer 127.0.0.1:9"]["what"]

    def test_a_certs_dir_that_containerd_does_not_read_is_found_out_by_a_pull(
        self, shared: Containerd, mirror: Node, tmp_path: Path
    ) -> None:
        line = ("doctor", "-o", "json", "--store", f"containerd:{shared.socket}", "--certs-dir", str(tmp_path))
        config = str(shared.directory / "config.toml")
        done = fastmirror(*line, "--mirror", url(mirror), "--containerd-config", config, "--probe")
        found = {finding["check"]: finding for finding in json.loads(done.stdout)}
        assert found["probe"]["outcome"] == "problem"
        assert found["config_path"]["outcome"] == "problem"
        assert str(tmp_path) in found["config_path"]["mend"]
        assert os.listdir(tmp_path) == []

    def test_a_directory_that_is_not_containerds_is_found_out(
        self, shared: Containerd, mirror: Node, fresh_image: Make, tmp_path: Path
    ) -> None:
        shared.load(fresh_image().write_archive(tmp_path / "image.tar"))
        (tmp_path / "blobs" / "sha256").mkdir(parents=True)
        line = ("doctor", "-o", "json", "--store", f"containerd:{shared.socket},content={tmp_path}")
        done = fastmirror(*line, "--certs-dir", str(shared.certs), "--mirror", url(mirror))
        content = next(finding for finding in json.loads(done.stdout) if finding["check"] == "content")
        assert content["outcome"] == "problem"
        assert str(shared.content) in content["what"]

    def test_a_user_without_rights_is_told_what_cannot_be_seen(self, shared: Containerd, mirror: Node) -> None:
        shared.directory.chmod(0o755)
        found = self.examine(shared, mirror, user=65534)
        assert found["containerd"]["outcome"] == "problem"
        assert "may not be used by this user" in found["containerd"]["what"]
        assert "gid 0" in found["containerd"]["mend"]
        assert found["content"]["outcome"] == "unseen"
        assert found["end to end"]["outcome"] == "unseen"

    @pytest.mark.any_generation
    def test_the_text_for_people_says_the_same(self, shared: Containerd, mirror: Node) -> None:
        line = ("doctor", "--store", f"containerd:{shared.socket}", "--certs-dir", str(shared.certs))
        done = fastmirror(*line, "--mirror", url(mirror), "--containerd-config", "/nonexistent")
        assert done.returncode == 1
        assert "ok       mirror: fastmirror" in done.stdout
        assert "PROBLEM  hosts.toml of _default: there is none" in done.stdout
        assert "           mend: fastmirror configure --mirror" in done.stdout

    def test_a_frozen_containerd_is_told_and_does_not_hold_the_doctor_up(self, node: Containerd, mirror: Node) -> None:
        node.freeze()
        try:
            found = self.examine(node, mirror)
        finally:
            node.thaw()
        assert "does not answer" in found["containerd"]["what"]
