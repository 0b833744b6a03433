"""What the pages refer to is there."""

from __future__ import annotations

import re

from tests.house.tree import ROOT, files, name

LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def test_links_between_pages_lead_somewhere() -> None:
    pages = list(files(".md"))
    dead = [
        f"{name(page)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text())
        if not (page.parent / link).exists()
    ]
    assert dead == []
    assert len(pages) > 5


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    pages = [page.resolve() for page in files(".md", below="docs/") if page != index]
    assert [name(page) for page in pages if page not in reached and page.parent not in reached] == []


def test_make_targets_named_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = " ".join(page.read_text() for page in files(".md"))
    named = set(re.findall(r"(?:`|    )make ([a-z-]+)", pages))
    assert "demo" in named
    assert named <= targets


def test_phony_targets_are_all_targets_and_few() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"\.PHONY: (.*)", makefile)[0].split())
    assert phony == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert len(phony) <= 16
