"""Every compiled module has its faces, its source in the literature, and a test; and it knows nothing above it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, name

BODIES = sorted((ROOT / "ext").glob("*.pyx"))
FACES = ROOT / "src" / "fastmirror" / "_native"

each_body = pytest.mark.parametrize("body", BODIES, ids=lambda path: path.stem)


def test_there_are_compiled_modules() -> None:
    assert len(BODIES) > 3


@each_body
def test_it_has_a_face_for_python_and_one_for_cython(body: Path) -> None:
    assert (FACES / f"{body.stem}.pyi").is_file()
    assert (FACES / f"{body.stem}.pxd").is_file()


def test_every_face_has_a_body() -> None:
    faces = {path.stem for path in FACES.glob("*.p[yx][id]")} - {"__init__"}
    assert faces == {body.stem for body in BODIES}


@each_body
def test_it_is_imported_by_a_test_of_native_code(body: Path) -> None:
    module = re.compile(rf"fastmirror\._native\.{body.stem}\b|from fastmirror\._native import .*\b{body.stem}\b")
    assert any(module.search(path.read_text()) for path in files(".py", below="tests/native/"))


@each_body
def test_it_names_what_it_follows(body: Path) -> None:
    docstring = body.read_text().partition('"""')[2].partition('"""')[0]
    assert re.search(r"^\s*Sources?:? ", docstring, re.MULTILINE) or "Source: " in docstring


@each_body
def test_it_imports_nothing_of_ours_but_its_neighbours(body: Path) -> None:
    for path in (body, FACES / f"{body.stem}.pxd"):
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import|cimport)\b.*\bfastmirror\b", line):
                assert "fastmirror._native." in line, f"{name(path)}: {line}"


@pytest.mark.parametrize("path", [*BODIES, *sorted(FACES.glob("*.pxd"))], ids=name)
def test_what_runs_without_the_gil_raises_nothing(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    # a definition ends at its colon in a body and at the end of its line in a face; C's own functions are not ours
    ours = re.sub(r"cdef extern from.*?(?=\n\S)", "", text, flags=re.DOTALL)
    for signature in re.findall(r"^\s*(?:cdef|cpdef)\s[^=:]*\([^)]*\)[^\n]*", ours, re.MULTILINE):
        if re.search(r"\bnogil\b", signature):
            assert "noexcept" in signature, f"{name(path)}: {signature.strip()}"
