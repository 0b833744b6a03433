"""The send pool's C under ThreadSanitizer and AddressSanitizer: ``send_race.c`` drives it without Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.sanitized import SANITIZERS, counts

SOURCES = ["tests/native/send_race.c", "ext/sendpool.c"]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing_while_bodies_begin_end_and_are_cut(sanitizer: str, tmp_path: Path) -> None:
    found = counts(SOURCES, sanitizer, tmp_path, "-Wl,--wrap=sendfile,--wrap=epoll_ctl,--wrap=epoll_wait")
    assert sum(found.values()) == 360
    assert all(count > 0 for count in found.values())
