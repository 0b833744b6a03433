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
        (("reg.local:5000/*",), (), ("reg.local/x",), True),  # as containerd's label has it
        (("reg.local/*",), (), ("reg.local:5000/x",), True),
        ((), ("reg.local:5000/secret/*",), ("reg.local/secret/x", "reg.local:5000/secret/x"), False),
        ((), ("reg.local/secret/*",), ("reg.local/secret/x", "reg.local:5000/secret/x"), False),
        ((), ("[fd00::1]:5000",), ("[fd00::1]/x",), False),
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
