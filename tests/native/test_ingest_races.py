"""The ingester's C under ThreadSanitizer and AddressSanitizer: ``ingest_race.c`` drives it without Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.sanitized import SANITIZERS, counts

SOURCES = ["tests/native/ingest_race.c", "ext/ingest_threads.c", "ext/sha2.c"]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing_while_jobs_start_move_and_are_cancelled(sanitizer: str, tmp_path: Path) -> None:
    found = counts(SOURCES, sanitizer, tmp_path)
    assert sum(found.values()) == 360
    assert all(found[outcome] > 0 for outcome in ("complete", "closed", "cancelled"))
