"""The command line: what it prints, how it fails, and that it is the settings' face."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fastmirror
from fastmirror import cli
from fastmirror.config.load import fields
from tests.kit.layout import Layout, image


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    for field in fields():
        monkeypatch.delenv(field.variable, raising=False)
    monkeypatch.delenv("FASTMIRROR_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(args)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def archive(directory: Path, name: str) -> Path:
    """An oci-archive with one image."""
    manifest, blobs = image([b"layer one", b"layer two"])
    layout = Layout(directory / "layout")
    layout.add_image(name, manifest, blobs)
    path = directory / "image.tar"
    subprocess.run(["tar", "-C", layout.directory, "-cf", path, "."], check=True)
    return path


def test_every_setting_is_a_flag_of_serve_with_its_help_default_and_variable():
    options = {option.name: option for option in cli.serve.params if isinstance(option, click.Option)}
    for field in fields():
        option = options[field.name]
        assert option.opts == [field.flag]
        assert option.help is not None
        assert option.help.startswith(field.help)
        assert field.variable in option.help
    assert set(options) == {field.name for field in fields()} | {"config", "supervise"}


@pytest.mark.parametrize(
    "flag",
    ["--store", "--registry-addr", "--peer-addr", "--admin-addr", "--peers", "--default-registry", "--config"],
)
def test_the_flags_that_scripts_rely_on_are_there(run, flag):
    code, out, _ = run("serve", "--help")
    assert code == 0
    assert flag in out


def test_config_show_prints_every_value_with_its_origin(run, monkeypatch, tmp_path):
    (tmp_path / "f.toml").write_text("grace = 9")
    monkeypatch.setenv("FASTMIRROR_MAX_FETCHES", "3")
    args = ("config", "show", "--config", "f.toml", "--peers", "a:1,b:2")
    code, out, _ = run(*args, "-o", "json")
    shown = json.loads(out)
    assert code == 0
    assert set(shown) == {field.name for field in fields()}
    assert shown["peers"] == {"value": ["a:1", "b:2"], "origin": {"kind": "flag", "where": "--peers"}}
    assert shown["grace"] == {"value": 9.0, "origin": {"kind": "file", "where": "f.toml"}}
    assert shown["max_fetches"]["origin"] == {"kind": "env", "where": "FASTMIRROR_MAX_FETCHES"}
    assert shown["idle_timeout"]["origin"] == {"kind": "default", "where": ""}
    code, out, _ = run(*args)
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["peers"][1:] == ["a:1,b:2", "--peers"]
    assert lines["max_fetches"][1:] == ["3", "FASTMIRROR_MAX_FETCHES", "in", "the", "environment"]


@pytest.mark.parametrize(
    ("args", "value"), [((), False), (("--resolve-tags",), True), (("--resolve-tags", "false", "--grace", "1"), False)]
)
def test_a_switch_may_be_given_with_or_without_a_value(run, args, value):
    code, out, _ = run("config", "show", "-o", "json", *args)
    assert code == 0
    assert json.loads(out)["resolve_tags"]["value"] is value


def test_the_version_may_be_asked_for_as_of_other_programs(run):
    assert run("--version") == (0, f"fastmirror {fastmirror.__version__}\n", "")


def test_what_import_cannot_do_is_not_offered_by_its_help(run):
    _, out, _ = run("import", "--help")
    assert "oci:DIR" in out
    assert "containerd:" not in out
    assert "containerd:SOCKET" in run("serve", "--help")[1]


def test_version_prints_what_runs(run):
    code, out, _ = run("version", "-o", "json")
    assert code == 0
    assert json.loads(out)["fastmirror"] == fastmirror.__version__
    assert fastmirror.__version__ in run("version")[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("serve", "--grace"), "requires an argument"), (("serve", "--grace", "x"), "grace: expected seconds"),
        (("serve", "--peers", "x"), "peers: expected HOST:PORT"), (("serve", "--pers", "x"), "'--peers'"),
        (("srve",), "Did you mean 'serve'?"), (("import",), "Missing argument"), (("version", "-o", "xml"), "xml"),
        (("serve", "--config", "no.toml"), "cannot read"), (("import", "x.tar", "--name", "UPPER"), "(from --name)"),
        (("import", "x.tar", "y.tar", "--name", "a"), "one by one"),
        (("import", "x.tar", "--name", "a.example/b@sha256:0"), "expected a tag, not a digest"),
        (("serve", "--peers", "a\nb:1"), r"a\nb:1"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_code_2(run, args, said):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("fastmirror: ")
    assert said in err
    assert err.count("\n") == 1


def test_nothing_to_do_shows_the_help_and_is_wrong_use(run):
    code, _, err = run()
    assert code == 2
    assert "serve" in err


def test_debug_shows_the_traceback_and_may_stand_anywhere(run):
    for args in (("--debug", "serve", "--peers", "x"), ("serve", "--peers", "x", "--debug")):
        code, _, err = run(*args)
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("fastmirror: peers: ")


def test_a_defect_is_one_line_too(run, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of\nmany lines")

    monkeypatch.setattr(cli, "load", broken)
    code, _, err = run("config", "show")
    assert code == 1
    assert err == "fastmirror: a defect in fastmirror: ZeroDivisionError: of many lines; --debug shows where\n"


def test_import_puts_an_image_into_the_store_and_prints_its_name_and_digest(run, tmp_path):
    path = archive(tmp_path, "example.com/team/app:1")
    code, out, err = run("import", str(path), "--store", "oci:./data", "-o", "json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["name"] == "example.com/team/app:1"
    assert (tmp_path / "data/blobs" / row["digest"].replace(":", "/")).exists()
    code, out, _ = run("import", str(path), "--store", "oci:./data", "--name", "docker.io/library/app:2")
    assert out.splitlines()[1].split() == ["docker.io/library/app:2", row["digest"]]


def test_import_goes_to_the_first_store_of_the_environment(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMIRROR_STORE", "oci:./one,oci:./two")
    assert run("import", str(archive(tmp_path, "a.example/b:1")))[0] == 0
    assert (tmp_path / "one/index.json").exists()
    assert not (tmp_path / "two").exists()


def test_import_that_cannot_is_one_line_and_exit_code_1(run, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for args, said in (
        (("import", "bad.tar"), "bad.tar"), (("import", "missing.tar"), "missing.tar"),
        (("import", "bad.tar", "--store", "oci:other"), "store: other has other files"),
    ):  # fmt: skip
        code, out, err = run(*args)
        assert (code, out) == (1, "")
        assert said in err
        assert err.count("\n") == 1


def test_of_several_files_the_good_ones_are_imported_and_the_bad_ones_told(run, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    good = str(archive(tmp_path, "a.example/b:1"))
    code, out, err = run("import", "bad.tar", good, "missing.tar", "-o", "json")
    assert code == 1
    assert [row["name"] for row in json.loads(out)] == ["a.example/b:1"]
    assert "bad.tar: " in err
    assert "missing.tar: it cannot be opened" in err
    assert err.count("\n") == 1


def test_an_import_that_fails_makes_no_store(run, tmp_path):
    empty = tmp_path / "empty.tar"
    subprocess.run(["tar", "-cf", empty, "-T", "/dev/null"], check=True)
    for file in ("missing.tar", str(empty)):
        assert run("import", file, "--store", "oci:new")[0] == 1
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("fastmirror.cli", "asyncio uvloop prometheus_client grpc ssl zipfile"),
        ("fastmirror.daemon", "prometheus_client grpc google hypothesis pytest click http.client zipfile tarfile"),
    ],
)
def test_a_command_does_not_load_what_it_does_not_need(module, absent):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(absent.split()) & set(done.stdout.split())
