"""Settings from flags, environment, file and defaults."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.config import Settings
from fastmirror.config.check import Address, StoreAddress, address, pattern, store
from fastmirror.config.load import _SERVICE_LINK, Field, Loaded, Origin, fields, load
from fastmirror.errors import ConfigError
from fastmirror.mirror.filters import Filters

BY_NAME = {field.name: field for field in fields()}


def value_of(loaded: Loaded, name: str) -> Any:
    return getattr(getattr(loaded.settings, BY_NAME[name].section), name)


def file_with(directory: Path, text: str) -> str:
    path = directory / "settings.toml"
    path.write_text(text)
    return str(path)


def complaint(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, file: str | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_sources_everything_is_the_default_and_says_so():
    loaded = load({}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {Origin("default")}
    assert set(loaded.origins) == set(BY_NAME)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path):
    file = file_with(tmp_path, "grace = 1\nmax_fetches = 1\nstall_timeout = 1\n")
    environ = {"FASTMIRROR_GRACE": "2", "FASTMIRROR_MAX_FETCHES": "2"}
    loaded = load({"grace": "3"}, environ, file)
    got = {name: (value_of(loaded, name), str(loaded.origins[name])) for name in BY_NAME}
    assert got["grace"] == (3.0, "--grace")
    assert got["max_fetches"] == (2, "FASTMIRROR_MAX_FETCHES in the environment")
    assert got["stall_timeout"] == (1.0, file)
    assert got["idle_timeout"] == (75.0, "default")


def test_the_file_is_named_by_the_flag_or_else_by_the_environment(tmp_path):
    file = file_with(tmp_path, "grace = 7")
    assert value_of(load({}, {"FASTMIRROR_CONFIG": file}), "grace") == 7
    assert value_of(load({}, {"FASTMIRROR_CONFIG": "/nowhere"}, file), "grace") == 7
    assert value_of(load({}, {"FASTMIRROR_CONFIG": ""}), "grace") == 5


def test_lists_are_given_by_commas_or_by_repeating_the_flag(tmp_path):
    for loaded in (
        load({"peers": ("a:1,b:2", "c:3")}, {}),
        load({}, {"FASTMIRROR_PEERS": "a:1, b:2,c:3,"}),
        load({}, {}, file_with(tmp_path, 'peers = ["a:1", "b:2", "c:3"]')),
        load({}, {}, file_with(tmp_path, 'peers = "a:1,b:2,c:3"')),
    ):
        assert value_of(loaded, "peers") == ("a:1", "b:2", "c:3")


def test_an_empty_flag_or_variable_empties_a_list_of_a_weaker_source(tmp_path):
    file = file_with(tmp_path, 'peers = ["a:1"]')
    assert value_of(load({"peers": ("",)}, {}, file), "peers") == ()
    assert value_of(load({}, {"FASTMIRROR_PEERS": ""}, file), "peers") == ()


def test_a_comma_in_a_directory_does_not_divide_a_store():
    loaded = load({}, {"FASTMIRROR_STORE": "oci:/srv/a,b,oci:/srv/c"})
    assert value_of(loaded, "store") == ("oci:/srv/a,b", "oci:/srv/c")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("stall_timeout", "500ms", 0.5), ("stall_timeout", "2", 2.0), ("stall_timeout", " 1.5s ", 1.5),
        ("drain_timeout", "2m", 120.0), ("idle_timeout", "1h", 3600.0), ("spool_bytes", "16GiB", 2**34),
        ("whole_bytes", "2Mi", 2**21), ("spool_bytes", "34359738368", 2**35),
    ],
)  # fmt: skip
def test_durations_and_sizes_may_have_units_in_every_source(tmp_path, name, text, value):
    for loaded in (
        load({name: text}, {}),
        load({}, {BY_NAME[name].variable: text}),
        load({}, {}, file_with(tmp_path, f'{name} = "{text}"')),
    ):
        assert value_of(loaded, name) == value


def test_whole_numbers_may_come_as_floats_because_helm_writes_them_so(tmp_path):
    assert value_of(load({}, {}, file_with(tmp_path, "max_fetches = 8.0")), "max_fetches") == 8
    assert "max_fetches" in complaint(file=file_with(tmp_path, "max_fetches = 8.5"))


WRONG_VALUES = [
    ("stall_timeout", "-1", "or 500ms, more than 0, not"), ("stall_timeout", "abc", "seconds"),
    ("stall_timeout", "nan", "more than 0"), ("stall_timeout", "inf", "at most 86400,"),
    ("stall_timeout", "", "seconds"), ("max_fetches", "0", "whole number, at least 1,"),
    ("max_fetches", "many", "whole number"), ("whole_bytes", "8 MB", "bytes"), ("log_level", "loud", "debug, info"),
    ("registry_addr", "5000", "HOST:PORT"), ("registry_addr", ":5000", "0.0.0.0:5000"),
    ("registry_addr", "::1:5000", "[::1]:5000"), ("registry_addr", "h:65536", "65535"),
    ("peer_addr", "a b:1", "HOST:PORT"), ("peers", "a:0", "peer listener"), ("peers", "a", "HOST:PORT"),
    ("peers", "a" * 64 + ".example:5001", "63 characters"),
    ("peers", "0.0.0.0:5001", "every address"), ("peers", "[0::0]:5001", "every address"),
    ("store", "./data", "oci:./data"), ("store", "s3:bucket", "oci:DIR"), ("store", "oci:", "directory"),
    ("store", "", "at least one"), ("default_registry", "https://docker.io", "host"),
    ("resolve_tags", "perhaps", "true or false"), ("allow", "https://docker.io", "scheme"),
    ("deny", "registry.example/Team", "lower case"), ("bootstrap", "node-a", "dns:NAME:PORT"),
    ("bootstrap", "http://", "URL"), ("bootstrap", "dns:n:0", "port 0"), ("peer_cidr", "10.0.0.0/33", "10.0.0.0/8"),
    ("allow_peer_id", "QmNotOurs", "12D3KooW"), ("degree", "3", "at least 4"), ("node_name", "caf\u00e9", "ASCII"),
    ("router", "dht", "auto, libp2p, static"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "wanted"), WRONG_VALUES)
def test_a_wrong_value_is_told_with_its_name_what_was_wanted_and_where_it_came_from(tmp_path, name, text, wanted):
    field = BY_NAME[name]
    file = file_with(tmp_path, f'{name} = "{text}"')
    for said, source in (
        (complaint({name: (text,) if field.many else text}), f"(from {field.flag})"),
        (complaint(environ={field.variable: text}), f"(from {field.variable} in the environment)"),
        (complaint(file=file), f"(from {file})"),
    ):
        assert said.startswith(f"{name}: ")
        assert wanted in said
        assert source in said


@pytest.mark.parametrize("value", ["true", "[1]", "{a = 1}", "1979-05-27", "nan"])
def test_a_value_of_another_type_in_the_file_is_refused(tmp_path, value):
    for name in ("max_fetches", "peers", "registry_addr", "log_level"):
        assert complaint(file=file_with(tmp_path, f"{name} = {value}")).startswith(f"{name}: expected")


def test_an_unknown_key_is_told_with_the_key_that_was_meant(tmp_path):
    file = file_with(tmp_path, "stall_timout = 1")
    assert complaint(file=file) == f"stall_timout: no such setting (from {file}); did you mean stall_timeout?"
    assert complaint(environ={"FASTMIRROR_PEER": "a:1"}).endswith("did you mean FASTMIRROR_PEERS?")
    assert "without tables" in complaint(file=file_with(tmp_path, "[fetch]\ngrace = 1"))
    assert "did you mean" not in complaint(environ={"FASTMIRROR_XYZZY": "1"})


def test_variables_of_kubernetes_services_and_of_the_build_are_no_settings():
    environ = {
        "FASTMIRROR_SERVICE_HOST": "10.0.0.1", "FASTMIRROR_SERVICE_PORT": "5000", "FASTMIRROR_SERVICE_PORT_HTTP": "1",
        "FASTMIRROR_PORT": "tcp://10.0.0.1:5000", "FASTMIRROR_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "FASTMIRROR_PEERS_PORT_5001_TCP_ADDR": "10.0.0.1", "FASTMIRROR_DEBUG": "1", "FASTMIRROR_SANITIZE": "1",
        "FASTMIRROR_APT": "no", "FASTMIRROR_CONTAINERD_CACHE": "/srv/cache", "FASTMIRROR_EDITABLE": "1",
    }  # fmt: skip
    assert load({}, environ).settings == Settings()
    assert not [field for field in fields() if _SERVICE_LINK.fullmatch(field.variable)]


def test_a_file_that_cannot_be_read_is_told_with_who_named_it(tmp_path):
    missing = str(tmp_path / "missing.toml")
    assert complaint(file=missing) == f'config: cannot read "{missing}": No such file or directory (from --config)'
    assert "Is a directory (from FASTMIRROR_CONFIG)" in complaint(environ={"FASTMIRROR_CONFIG": str(tmp_path)})
    assert "is not TOML" in complaint(file=file_with(tmp_path, "grace 1"))
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"grace = '\xff'")
    assert "is not TOML" in complaint(file=str(broken))


def test_settings_that_do_not_go_together_are_refused_in_the_name_of_the_one_that_was_set():
    assert complaint({"whole_bytes": "1KiB"}).startswith("whole_bytes: holdback_bytes (1048576) must not exceed")
    assert complaint({"holdback_bytes": "9MiB"}).endswith("(from --holdback-bytes)")
    assert complaint({"spool_bytes": "1MiB"}).startswith("spool_bytes: ")
    assert complaint({"registry_addr": "127.0.0.1:5001"}).startswith("registry_addr: ")
    assert "different ports" in complaint({"admin_addr": "127.0.0.1:5000"})
    load({"registry_addr": "127.0.0.1:5000", "peer_addr": "127.0.0.2:5000", "admin_addr": "127.0.0.3:0"}, {})
    load({"registry_addr": "127.0.0.1:0", "peer_addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}, {})


def test_nodes_find_each_other_or_are_given_but_not_both():
    places = {"bootstrap": ("10.0.0.1:5003",)}
    assert load(places, {}).settings.router.joins
    assert not load({}, {}).settings.router.joins
    assert load({"router": "libp2p"}, {}).settings.router.joins
    assert complaint({**places, "peers": ("10.0.0.2:5001",)}).startswith("peers: the libp2p router finds")
    assert complaint({**places, "router": "static"}).startswith("bootstrap: only the libp2p router")
    assert "different ports" in complaint({**places, "router_addr": "0.0.0.0:5001"})
    assert "same host" in complaint({**places, "router_addr": "10.0.0.1:5003", "peer_addr": "10.0.0.2:5001"})


def _texts(field: Field) -> st.SearchStrategy[Any]:
    """Values of a setting as text that every source accepts, one or several."""
    hosts = st.sampled_from(["127.0.0.1", "[::1]", "node-a", "a.example", "10.1.2.3"])
    addresses = st.builds("{}:{}".format, hosts, st.integers(1, 65535))
    one = {
        "seconds": st.floats(0.001, 86400).map(repr) | st.integers(1, 86_399_999).map("{}ms".format),
        "bytes": st.integers(2**23, 2**40).map(str) | st.integers(8, 999).map("{}MiB".format),
        "count": st.integers(1, 10**6).map(str),
        "HOST:PORT": addresses,
        "HOST": st.sampled_from(["docker.io", "registry.example:5000", "[::1]:5000", ""]),
        "STORE": st.text(string.ascii_letters + "/._- ", min_size=1).map(lambda text: f"oci:/{text.strip()}"),
        "PATTERN": st.sampled_from(
            ["docker.io", "registry.example/team/*", "registry.example/team/app", "localhost:5000/*"]
        ),
        "true/false": st.sampled_from(["true", "false"]),
        "NAMESPACE": st.sampled_from(["k8s.io", "moby", "default"]),
        "DIR": st.text(string.ascii_letters + "/._-").map(str.strip),
        "FILE": st.text(string.ascii_letters + "/._-").map(str.strip),
        "NAME": st.sampled_from(["", "node-1", "eu west 1b"]),
        "PLACE": st.sampled_from(["10.0.0.1:5003", "[::1]:5003", "dns:routers.fm:5003", "http://list.example/n"]),
        "CIDR": st.sampled_from(["10.0.0.0/8", "fd00::/8", "192.0.2.7"]),
        "PEER-ID": st.sampled_from(["12D3KooWQGLmna8tp978KMuibrGHGw44EP15YMmQfKToqiyWgb5g"]),
        "nodes": st.integers(4, 1024).map(str),
    }
    if field.choices:
        return st.sampled_from(field.choices)
    return st.lists(one[field.form], min_size=1, max_size=4).map(tuple) if field.many else one[field.form]


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={f.name: _texts(f) for f in fields() if f.name != "holdback_bytes"}))
def test_flags_environment_and_file_agree(tmp_path_factory, given_texts):
    toml = "\n".join(f"{name} = {msgspec.json.encode(text).decode()}" for name, text in given_texts.items())
    joined = {name: text if isinstance(text, str) else ",".join(text) for name, text in given_texts.items()}
    file = file_with(tmp_path_factory.getbasetemp(), toml)
    outcomes: list[Settings | str] = []
    sources: tuple[dict[str, Any], dict[str, str], str | None]
    for sources in (
        (given_texts, {}, None),
        ({}, {BY_NAME[name].variable: text for name, text in joined.items()}, None),
        ({}, {}, file),
    ):
        try:
            outcomes.append(load(*sources).settings)
        except ConfigError as error:
            outcomes.append(str(error).partition(" (from ")[0])
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(deadline=None)
@given(st.text(max_size=40))
def test_an_address_is_refused_or_comes_back_as_it_was_meant(text):
    try:
        found = address(text)
    except ValueError:
        return
    assert address(str(found)) == found
    assert 0 <= found.port <= 65535


def test_addresses_and_stores_are_read_into_their_parts():
    assert address("[::1]:80") == Address("::1", 80)
    assert str(Address("fd00::2", 81)) == "[fd00::2]:81"
    assert store("oci:./data") == StoreAddress("oci", "./data")
    assert store("containerd:/run/c.sock") == StoreAddress("containerd", "/run/c.sock")
    assert store("containerd:/run/c.sock,content=/c") == StoreAddress("containerd", "/run/c.sock", "/c")
    assert store("content:/c,d") == StoreAddress("content", "/c,d")
    assert [str(store(text)) for text in ("content:/c", "containerd:/s,content=/c")] == [
        "content:/c",
        "containerd:/s,content=/c",
    ]


@pytest.mark.parametrize("text", ["containerd:", "containerd:/s,content=", "containerd:/s,x=1", "content:", "dir:/c"])
def test_a_containerd_store_without_its_place_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        store(text)


def test_a_filter_by_name_is_refused_where_there_are_no_names():
    refused = complaint({"store": ("content:/c",), "deny": ("docker.io",)})
    assert refused.startswith("deny: content:/c has no names to filter by: only containerd's socket tells")
    assert "containerd:SOCKET,content=/c" in refused
    load({"store": ("containerd:/s,content=/c",), "deny": ("docker.io",)}, {})
    load({"store": ("content:/c",)}, {})


@pytest.mark.parametrize("text", ["", "k8s io", "-k8s", "k8s/", "k" * 77])
def test_a_namespace_that_containerd_would_refuse_is_refused(text):
    assert complaint({"containerd_namespace": text}).startswith("containerd_namespace: expected a namespace")


@pytest.mark.parametrize(
    "text",
    [
        "docker.io",
        "registry.example/team/*",
        "registry.example/*",
        "h:5000/a/b",
        "*",
        "q/a*",
        "q/*/b",
        "q/",
        "q//a",
        "Q.io/a",
        "q/A",
    ],
)
def test_a_pattern_that_is_accepted_is_one_that_the_filters_understand(text):
    try:
        pattern(text)
    except ValueError:
        return
    assert Filters(allow=(text,))
