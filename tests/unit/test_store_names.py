"""Names in an index.json that is read again and again."""

from __future__ import annotations

import json

import pytest

from fastmirror.oci.reference import Reference
from fastmirror.store.index import images_of, read_roots


def index(*names: str) -> bytes:
    key = "org.opencontainers.image.ref.name"
    entries = [
        {"mediaType": "a/b", "digest": "sha256:" + "ab" * 32, "size": 1, "annotations": {key: name}} for name in names
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def test_only_names_that_are_new_in_an_index_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = Reference.parse

    def counted(text: str) -> Reference:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(Reference, "parse", counted)
    names = [f"reg.example/team/often-read-{number}:1" for number in range(5)]
    assert sorted(images_of(read_roots(index(*names), "index.json"))) == names
    images = images_of(read_roots(index(*names, "reg.example/team/often-read-new:1"), "index.json"))
    assert len(images) == 6 and parsed == [*names, "reg.example/team/often-read-new:1"]
