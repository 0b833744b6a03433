"""The units for hosts without Kubernetes: what they call exists, and how far they are locked up is as the docs say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastmirror.config.load import load

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SERVICES = ("fastmirror.service", "fastmirror-configure.service")


def values(unit: str, key: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_is_what_the_docs_say(unit: str) -> None:
    line = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)]
    said = subprocess.run(line, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    row = re.search(rf"`{unit}` \| ([0-9.]+)", (ROOT / "docs" / "install.md").read_text())
    assert row is not None
    assert float(found[1]) <= float(row[1]) < 2


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    text = (UNITS / unit).read_text().replace("/usr/local/bin/fastmirror", "/bin/true")
    (tmp_path / unit).write_text(text)
    line = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if unit in line and "fastmirror.service" not in line[40:]]
    assert done.returncode == 0, done.stderr
    assert said == []


@pytest.mark.needs("systemd-sysusers", "systemd-tmpfiles", "root")
def test_the_user_and_the_directory_are_made(tmp_path: Path) -> None:
    for directory in ("etc", "usr/lib"):
        (tmp_path / directory).mkdir(parents=True)
    for program, file in (("systemd-sysusers", "sysusers.conf"), ("systemd-tmpfiles", "tmpfiles.conf")):
        make = ["--create"] if program == "systemd-tmpfiles" else []
        subprocess.run([program, f"--root={tmp_path}", *make, str(UNITS / file)], check=True, capture_output=True)
    assert re.search(r"^fastmirror:", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert (tmp_path / "etc/containerd/certs.d").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("unit", SERVICES)
def test_the_command_line_is_one_that_fastmirror_takes(unit: str) -> None:
    (line,) = values(unit, "ExecStart")
    program, *arguments = shlex.split(line)
    assert program == "/usr/local/bin/fastmirror"
    command = arguments[0]
    flags = {text for text in arguments if text.startswith("--")}
    done = subprocess.run(
        [sys.executable, "-m", "fastmirror", command, "--help"], capture_output=True, text=True, check=True
    )
    assert {flag for flag in flags if flag not in done.stdout} == set()


def test_what_the_page_installs_it_also_removes_and_the_units_name_only_what_is_installed() -> None:
    page = (ROOT / "docs" / "install.md").read_text().partition("## Without Kubernetes")[2]
    install, remove = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    targets = {"/var/lib/fastmirror", "/var/cache/fastmirror"}  # as the unit has systemd make them
    targets |= set(re.findall(r"(?<= )(/(?:usr|etc|opt)/[\w./-]+)", install))
    targets = {f"{path}{unit}" for path in targets for unit in (SERVICES if path.endswith("system/") else ("",))}
    targets = {f"{path}fastmirror" if path.endswith("bin/") else path for path in targets}
    removed = re.findall(r"(/[\w./-]+)", remove)
    assert [path for path in targets if not any(f"{path}/".startswith(f"{gone}/") for gone in removed)] == []
    assert len(targets) > 8
    for unit in SERVICES:
        (document,) = values(unit, "Documentation")
        assert f"docs/{Path(document).name}" in install
        assert str(Path(document.removeprefix("file://")).parent) in install


def test_the_settings_are_valid_and_keep_to_what_the_unit_may_write() -> None:
    settings = load({}, {}, str(UNITS / "fastmirror.toml")).settings
    assert settings.router.joins
    assert settings.router.data_dir == f"/var/lib/{values('fastmirror.service', 'StateDirectory')[0]}"
    assert settings.fetch.spool_dir == f"/var/cache/{values('fastmirror.service', 'CacheDirectory')[0]}"
    (mounted,) = values("fastmirror.service", "BindReadOnlyPaths")
    assert values("fastmirror.service", "RequiresMountsFor") == [mounted.removeprefix("-")]
    assert settings.stores.store[0].endswith(f",content={mounted.removeprefix('-')}")
    stop = float(values("fastmirror.service", "TimeoutStopSec")[0])
    assert stop > settings.serve.drain_timeout + 10
