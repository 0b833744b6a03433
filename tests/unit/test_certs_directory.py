"""certs.d on disk: what configure does to it, and that cleanup gives it back."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.containerd.certs import RECORD, CertsDirectory, diff
from fastmirror.containerd.configure import Keeper, give_back, preview, write
from fastmirror.containerd.hosts import block, new_file, target
from fastmirror.containerd.plan import Plan, Wanted, configure
from fastmirror.containerd.probe import Answer, Kind

URL = "http://127.0.0.1:5000"
LINES = block(URL, resolve_tags=False)


def wanted(*registries: str, url: str = URL, **more: bool) -> Wanted:
    return Wanted(tuple(map(target, registries or ("_default",))), url, **more)


def remarks(plan: Plan) -> list[str]:
    return [f"{remark.kind} {remark.path}: {remark.text}" for remark in plan.remarks]


# On disk: there and back.


class Tree:
    """A certs.d directory with files, and how all of it is."""

    def __init__(self, path: Path, files: dict[str, str]) -> None:
        self.path = path
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(text.encode())

    def state(self) -> dict[str, tuple[object, ...]]:
        """Everything below the directory, as ``find`` sees it."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.path.rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            times = status.st_mtime_ns if path.is_file() else 0
            found[str(path.relative_to(self.path))] = (content, status.st_mode, status.st_uid, status.st_gid, times)
        return found

    def text(self, name: str) -> str:
        return (self.path / name).read_bytes().decode()


TREE = {
    "docker.io/hosts.toml": 'server = "https://registry-1.docker.io"\n\n[host."https://b.example"]\n',
    "registry.example/ca.crt": "certificate",
    "registry.example_5000_/hosts.toml": "# nothing",
    "_default/hosts.toml": '[host."https://c.example"]\n',
    "notes.txt": "mine",
}
ALL = ("docker.io", "registry.example", "registry.example:5000", "new.example", "_default")


def test_cleanup_gives_everything_back_byte_for_byte_and_mode_for_mode(tmp_path):
    tree = Tree(tmp_path, TREE)
    (tmp_path / "docker.io/hosts.toml").chmod(0o640)
    elsewhere = tmp_path / "notes.txt"
    (tmp_path / "linked.example").mkdir()
    (tmp_path / "linked.example/hosts.toml").symlink_to(elsewhere)
    elsewhere.write_text('[host."https://d.example"]\n')
    if os.geteuid() == 0:
        os.chown(tmp_path / "docker.io/hosts.toml", 1234, 4321)
    before = tree.state()
    plan = write(tmp_path, wanted(*ALL, "linked.example"))
    assert remarks(plan) == []
    assert len(plan.steps) == 6
    for name in ("docker.io", "registry.example_5000_", "new.example", "_default", "linked.example"):
        document = tomllib.loads(tree.text(f"{name}/hosts.toml"))
        assert next(iter(document["host"])) == URL, name
    assert tree.state()["docker.io/hosts.toml"][1:4] == before["docker.io/hosts.toml"][1:4]
    certificates = tree.text("registry.example/hosts.toml").splitlines()[1:3]
    assert certificates == ['server = "https://registry.example"', 'ca = ["ca.crt"]']
    assert not (tmp_path / "linked.example/hosts.toml").is_symlink()
    assert elsewhere.read_text() == '[host."https://d.example"]\n'
    plan = give_back(tmp_path)
    assert remarks(plan) == []
    assert tree.state() == before
    assert give_back(tmp_path) == Plan([], {}, [])


def test_what_was_not_there_before_is_not_there_after(tmp_path):
    certs = tmp_path / "etc" / "certs.d"
    write(certs, wanted("docker.io"))
    assert (certs / "docker.io/hosts.toml").exists()
    give_back(certs)
    assert not certs.exists()
    assert give_back(certs) == Plan([], {}, [])


def test_configuring_again_changes_nothing(tmp_path):
    tree = Tree(tmp_path, TREE)
    write(tmp_path, wanted(*ALL))
    before = tree.state()
    assert write(tmp_path, wanted(*ALL)).steps == []
    assert tree.state() == before


def test_configuring_otherwise_starts_from_what_was_there_before_us(tmp_path):
    tree = Tree(tmp_path, TREE)
    before = tree.state()
    write(tmp_path, wanted("docker.io", "new.example"))
    write(tmp_path, wanted("docker.io", "_default", url="http://127.0.0.1:6000", resolve_tags=True))
    assert not (tmp_path / "new.example").exists()
    assert URL not in tree.text("docker.io/hosts.toml")
    assert '[host."http://127.0.0.1:6000"]\ncapabilities = ["pull", "resolve"]' in tree.text("docker.io/hosts.toml")
    give_back(tmp_path)
    assert tree.state() == before


def test_edits_around_our_lines_stay_when_they_change_and_when_they_go(tmp_path):
    tree = Tree(tmp_path, TREE)
    write(tmp_path, wanted("docker.io"))
    edited = tree.text("docker.io/hosts.toml") + '[host."https://mine.example"]\n'
    (tmp_path / "docker.io/hosts.toml").write_text(edited)
    plan = write(tmp_path, wanted("docker.io"))
    assert remarks(plan) == ["note docker.io/hosts.toml: was edited by hand: the edits are kept"]
    assert tree.text("docker.io/hosts.toml") == edited
    write(tmp_path, wanted("docker.io", url="http://127.0.0.1:6000"))
    assert tree.text("docker.io/hosts.toml") == edited.replace(URL, "http://127.0.0.1:6000")
    plan = give_back(tmp_path)
    (remark,) = remarks(plan)
    assert remark == "note docker.io/hosts.toml: was edited by hand: the edits are kept, our lines are taken out"
    assert tree.text("docker.io/hosts.toml") == TREE["docker.io/hosts.toml"] + '[host."https://mine.example"]\n'
    assert not (tmp_path / RECORD).exists()


def test_lines_of_ours_that_were_edited_are_left_and_reported_and_the_old_file_is_kept(tmp_path):
    tree = Tree(tmp_path, TREE)
    write(tmp_path, wanted("docker.io"))
    edited = tree.text("docker.io/hosts.toml").replace('["pull"]', '["pull", "resolve"]')
    (tmp_path / "docker.io/hosts.toml").write_text(edited)
    plan = write(tmp_path, wanted("docker.io"))
    assert remarks(plan) == ["problem docker.io/hosts.toml: our lines in it were edited by hand: it is left as it is"]
    plan = give_back(tmp_path)
    assert "our lines too: it is left as it is" in remarks(plan)[0]
    assert tree.text("docker.io/hosts.toml") == edited
    assert tree.text("docker.io/hosts.toml.before-fastmirror") == TREE["docker.io/hosts.toml"]


def test_a_file_that_somebody_wrote_anew_is_what_was_there_before(tmp_path):
    tree = Tree(tmp_path, TREE)
    write(tmp_path, wanted("docker.io"))
    (tmp_path / "docker.io/hosts.toml").write_text('[host."https://new.example"]\n')
    assert len(write(tmp_path, wanted("docker.io")).steps) == 1
    assert list(tomllib.loads(tree.text("docker.io/hosts.toml"))["host"]) == [URL, "https://new.example"]
    give_back(tmp_path)
    assert tree.text("docker.io/hosts.toml") == '[host."https://new.example"]\n'


def test_a_file_of_ours_that_was_removed_is_written_again_but_not_given_back(tmp_path):
    tree = Tree(tmp_path, TREE)
    write(tmp_path, wanted("docker.io"))
    (tmp_path / "docker.io/hosts.toml").unlink()
    assert len(write(tmp_path, wanted("docker.io")).steps) == 1
    (tmp_path / "docker.io/hosts.toml").unlink()
    plan = give_back(tmp_path)
    assert "was removed by hand" in remarks(plan)[0]
    assert not (tmp_path / "docker.io/hosts.toml").exists()
    assert tree.text("docker.io/hosts.toml.before-fastmirror") == TREE["docker.io/hosts.toml"]


def test_a_file_that_names_the_mirror_already_is_left_as_it_is(tmp_path):
    tree = Tree(tmp_path, {"docker.io/hosts.toml": f'[host."{URL}"]\nskip_verify = true\n'})
    before = tree.state()
    plan = write(tmp_path, wanted("docker.io"))
    assert remarks(plan) == ["note docker.io/hosts.toml: names the mirror already: it is left as it is"]
    assert tree.state() == before


def test_a_damaged_file_is_left_unless_it_may_be_replaced(tmp_path):
    tree = Tree(tmp_path, {"docker.io/hosts.toml": "server = \n"})
    before = tree.state()
    plan = write(tmp_path, wanted("docker.io"))
    assert remarks(plan)[0].startswith("problem docker.io/hosts.toml: cannot be changed: it is not TOML")
    assert tree.state() == before
    write(tmp_path, wanted("docker.io", replace=True))
    assert tree.text("docker.io/hosts.toml") == new_file("https://registry-1.docker.io", LINES)
    give_back(tmp_path)
    assert tree.state() == before


def test_directories_that_default_does_not_count_for_are_named(tmp_path):
    Tree(tmp_path, TREE)
    plan = write(tmp_path, wanted("_default", "docker.io"))
    assert [remark.path for remark in plan.remarks] == ["registry.example", "registry.example_5000_"]
    assert "add --registry registry.example" in plan.remarks[0].text


def test_a_crash_between_record_and_file_loses_nothing(tmp_path):
    tree = Tree(tmp_path, TREE)
    before = tree.state()
    for url in (URL, "http://127.0.0.1:6000", "http://127.0.0.1:7000"):
        directory = CertsDirectory(tmp_path)
        record = directory.record()
        plan = configure(directory.find(), record, wanted("docker.io", url=url))
        directory.apply(Plan(plan.steps if url == URL else [], plan.record, []), record)  # then it died
    assert URL in tree.text("docker.io/hosts.toml")
    write(tmp_path, wanted("docker.io", url="http://127.0.0.1:7000"))
    assert "http://127.0.0.1:7000" in tree.text("docker.io/hosts.toml")
    give_back(tmp_path)
    assert tree.state() == before


def test_a_preview_changes_nothing_and_shows_what_would(tmp_path):
    tree = Tree(tmp_path, TREE)
    before = tree.state()
    plan, difference = preview(tmp_path, wanted("docker.io", "new.example"))
    assert tree.state() == before
    assert [step.path for step in plan.steps] == ["docker.io/hosts.toml", "new.example/hosts.toml"]
    assert '+[host."http://127.0.0.1:5000"]\n' in difference
    assert "--- /dev/null\n+++ new.example/hosts.toml\n" in difference
    assert diff(preview(tmp_path, None)[0]) == ""


_KEYS = st.sampled_from(["server", "ca", "skip_verify", "client", "header", "note"])
_VALUES = st.sampled_from(['"https://a"', '["a", "b"]', "true", '[\n["a", "b"],\n]', '{x = "y"}', '"""\n[x]\n"""'])
_TABLES = st.sampled_from(['[host."https://b"]', '[host."https://c".header]', "[other]", "[[list]]", "# [c]"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    keys = draw(st.dictionaries(_KEYS, _VALUES, max_size=4))
    lines = [f"{key} = {value}" for key, value in keys.items()]
    lines += draw(st.lists(_TABLES, max_size=4, unique=True))
    end = draw(st.sampled_from(["", "\n", "\n\n", "\r\n"]))
    return draw(st.sampled_from(["\n", "\n\n", "\r\n"])).join(lines) + end


@given(documents())
def test_what_is_put_in_front_of_any_file_comes_out_again(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("certs")
    tree = Tree(path, {"docker.io/hosts.toml": text})
    before = tree.state()
    plan = write(path, wanted("docker.io"))
    if not plan.remarks:
        document = tomllib.loads(tree.text("docker.io/hosts.toml"))
        old = tomllib.loads(text)
        assert document["host"].pop(URL) == tomllib.loads(LINES)["host"][URL]
        assert {**document, "host": document["host"]} == {"host": {}, **old}
        whole = tree.text("docker.io/hosts.toml")
        others = [whole.find(table) for table in ('[host."https', "[other]") if table in whole]
        assert all(whole.index(f'[host."{URL}"]') < other for other in others)
    give_back(path)
    assert tree.state() == before


# Kept right.


class Script:
    """Answers as told, one after the other; the last one stays."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = list(kinds)

    def __call__(self, url: str) -> Answer:
        return Answer(self.kinds.pop(0) if len(self.kinds) > 1 else self.kinds[0], "")


def looks(path: Path, *kinds: Kind) -> list[bool]:
    """Whether our file was there after each look."""
    keeper = Keeper(path, wanted("docker.io"), Script(*kinds))
    there = []
    for _ in kinds:
        keeper.look()
        there.append((path / "docker.io/hosts.toml").exists())
    return there


def test_the_keeper_waits_for_the_mirror_and_leaves_the_file_when_it_is_merely_gone(tmp_path):
    assert looks(tmp_path, Kind.ABSENT, Kind.OURS, Kind.ABSENT, Kind.ABSENT) == [False, True, True, True]


@pytest.mark.parametrize("bad", [Kind.FOREIGN, Kind.SILENT])
def test_the_keeper_takes_the_file_out_while_something_else_or_something_stuck_answers(tmp_path, bad):
    assert looks(tmp_path, bad, Kind.OURS, bad, bad, bad, Kind.OURS) == [False, True, True, False, False, True]


def test_the_keeper_writes_again_what_was_removed(tmp_path):
    keeper = Keeper(tmp_path, wanted("docker.io"), Script(Kind.OURS))
    keeper.look()
    (tmp_path / "docker.io/hosts.toml").unlink()
    keeper.look()
    assert (tmp_path / "docker.io/hosts.toml").exists()


def test_the_keeper_goes_on_when_it_cannot_write(tmp_path, caplog):
    (tmp_path / "certs").write_text("not a directory")
    keeper = Keeper(tmp_path / "certs", wanted("docker.io"), Script(Kind.OURS))
    keeper.look()
    assert "certs-dir" in caplog.text
