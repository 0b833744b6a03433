"""How hard hypothesis tries: the same examples each time unless FASTMIRROR_EXAMPLES asks for more."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("FASTMIRROR_EXAMPLES", "0"))

settings.register_profile(
    "usual", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=_EXAMPLES or 1, deadline=None)
settings.load_profile("thorough" if _EXAMPLES else "usual")
