"""Content is judged by its own names."""

import pytest

from fastmirror.errors import ConfigError
from fastmirror.mirror.filters import Filters


@pytest.mark.parametrize(
    ("allow", "deny", "names", "served"),
    [
        ((), (), (), True),
        (("docker.io",), (), ("docker.io/library/nginx",), True),
        (("registry-1.docker.io",), (), ("docker.io/library/nginx",), True),
        (("docker.io",), (), ("registry.example/a/b",), False),
        (("docker.io",), (), (), False),
        (("registry.example/team/*",), (), ("registry.example/team/app",), True),
        (("registry.example/team/*",), (), ("registry.example/team/deep/app",), True),
        (("registry.example/team/*",), (), ("registry.example/teammate/app",), False),
        (("registry.example/team/app",), (), ("registry.example/team/app2",), False),
        (("reg.local:5000/*",), (), ("reg.local:5000/x",), True),
        ((), ("private.example",), ("private.example/x",), False),
        ((), ("private.example",), ("private.example/x", "docker.io/library/base"), True),
        ((), ("private.example",), (), False),
        (("docker.io",), ("docker.io/secret/*",), ("docker.io/secret/a",), False),
    ],
)
def test_content_is_served_if_one_of_its_own_names_may_be(
    allow: tuple[str, ...], deny: tuple[str, ...], names: tuple[str, ...], served: bool
) -> None:
    assert Filters(allow, deny).allows(names) is served


@pytest.mark.parametrize("pattern", ["", "/x", "docker.io/*/x", "docker.io/a*", "http://docker.io", "docker.io/"])
def test_pattern_that_cannot_be_meant_is_refused_with_its_setting(pattern: str) -> None:
    with pytest.raises(ConfigError, match="deny"):
        Filters(deny=[pattern])
