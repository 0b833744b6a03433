"""The checker's C under ThreadSanitizer and AddressSanitizer: ``check_race.c`` drives it without Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.sanitized import SANITIZERS, counts

SOURCES = ["tests/native/check_race.c", "ext/check_threads.c", "ext/blake3.c", "ext/sha2.c", "ext/xxh3.c"]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing_while_works_start_move_and_are_cancelled(sanitizer: str, tmp_path: Path) -> None:
    found = counts(SOURCES, sanitizer, tmp_path, "-Wno-unused-parameter")
    assert sum(found.values()) == 144
    assert all(found[outcome] > 0 for outcome in ("complete", "cancelled"))
