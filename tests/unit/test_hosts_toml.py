"""hosts.toml: what is written, and what is put in front of what."""

from __future__ import annotations

import tomllib

import pytest

from fastmirror.containerd import hosts
from fastmirror.containerd.hosts import CannotPrepend, block, mirror_url, new_file, prepend, target
from fastmirror.errors import ConfigError

URL = "http://127.0.0.1:5000"
LINES = block(URL, resolve_tags=False)
OURS = hosts.HEADER + LINES


# What is written.


def test_a_file_of_our_own_for_all_registries():
    assert new_file("", LINES) == (
        "# These lines are fastmirror's: `fastmirror cleanup` takes them out again.\n"
        '[host."http://127.0.0.1:5000"]\n'
        'capabilities = ["pull"]\n'
        'dial_timeout = "200ms"\n'
    )


def test_a_file_of_our_own_for_one_registry_that_also_resolves_tags():
    text = new_file(target("docker.io").server, block(URL, resolve_tags=True))
    assert text == (
        "# These lines are fastmirror's: `fastmirror cleanup` takes them out again.\n"
        'server = "https://registry-1.docker.io"\n'
        "\n"
        '[host."http://127.0.0.1:5000"]\n'
        'capabilities = ["pull", "resolve"]\n'
        'dial_timeout = "200ms"\n'
    )


def test_certificates_in_dockers_style_are_named_since_containerd_no_longer_finds_them_itself():
    names = {"ca.crt", "client.cert", "client.key", "lonely.cert", "README", "hosts.toml"}
    document = tomllib.loads(new_file("https://registry.example", LINES, names))
    assert document["ca"] == ["ca.crt"]
    assert document["client"] == [["client.cert", "client.key"]]


@pytest.mark.parametrize(
    ("text", "registry", "server"),
    [
        ("docker.io", "docker.io", "https://registry-1.docker.io"),
        ("index.docker.io", "docker.io", "https://registry-1.docker.io"),
        ("registry.example", "registry.example", "https://registry.example"),
        ("Registry.Example:5000", "registry.example:5000", "https://registry.example:5000"),
        ("http://registry.example:5000", "registry.example:5000", "http://registry.example:5000"),
        ("localhost:5000", "localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("_default", "_default", ""),
    ],
)
def test_a_registry_has_the_server_that_containerd_would_ask_without_us(text, registry, server):
    assert target(text) == (registry, server)


@pytest.mark.parametrize("text", ["", "ftp://registry.example", "https://registry.example/path", "a b", "../etc"])
def test_what_is_no_registry_is_refused(text):
    with pytest.raises(ConfigError, match="registry: expected a host"):
        target(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:5000",
        "https://127.0.0.1",
        "http://h/v2",
        "http://u@h",
        'http://h"',
        "http://h:0",
        "http://h:99999",
    ],
)
def test_what_is_no_mirror_is_refused(text):
    with pytest.raises(ConfigError, match="mirror: expected a URL"):
        mirror_url(text)


def test_a_mirror_is_written_without_a_slash_at_its_end():
    assert mirror_url("http://[::1]:5000/") == "http://[::1]:5000"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://fd00::1:5000", "http://[fd00::1]:5000"),
        ("http://fd00:0:0:0:0:0:0:1:30500/", "http://[fd00:0:0:0:0:0:0:1]:30500"),
        ("http://::ffff:10.0.0.1:5000", "http://[::ffff:10.0.0.1]:5000"),
        ("http://::1:5000", "http://[::1]:5000"),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000"),
    ],
)
def test_a_nodes_ipv6_address_gets_its_brackets(text, url):
    assert mirror_url(text) == url


# In front of what is there.

FIRST_TABLES = {
    "hosts": ('server = "https://a.example"\n\n', '[host."https://b.example"]\ncapabilities = ["pull"]\n'),
    "nested": ("", '[host."https://b.example"]\n[host."https://b.example".header]\nx = "y"\n[host."https://c"]\n'),
    "comments": ('# one\nserver = "https://a.example" # 2\n# [host."no"]\n', '  [ host . "https://b.example" ] # 3\n'),
    "header": ('server = "https://a.example"\n', '[header]\nx = ["y"]\n[host."https://b.example"]\n'),
    "array": ('client = [\n["a", "b"],\n  ["c", "d"]\n]\n', '[host."https://b.example"]\n'),
    "string": ('note = """\n[host."no"]\n"""\n', '[host."https://b.example"]\n'),
    "crlf": ('server = "https://a.example"\r\n', '[host."https://b.example"]\r\nskip_verify = true\r\n'),
    "bytes": ('note = "\u2028[é"\n', '[host."https://b.example"]\n'),
}


@pytest.mark.parametrize("name", FIRST_TABLES)
def test_our_host_goes_before_the_first_table_and_nothing_else_changes(name):
    before, after = FIRST_TABLES[name]
    assert prepend(before + after, LINES) == before + OURS + "\n" + after


@pytest.mark.parametrize("text", ["", "# nothing\n", 'server = "https://a.example"', 'server = "https://a.example"\n'])
def test_our_host_goes_to_the_end_of_a_file_without_tables(text):
    whole = prepend(text, LINES)
    assert whole == text + ("" if text.endswith("\n") or not text else "\n") + OURS
    assert list(tomllib.loads(whole)["host"]) == [URL]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = https://a.example\n", "not TOML"),
        ('host."https://b.example".skip_verify = true\n', "tables"),
        ('host = {"https://b.example" = {skip_verify = true}}\n', "tables"),
        ("host = 1\n", "tables"),
        (f'[host."{URL}"]\n', "tables"),
    ],
)
def test_what_nothing_can_be_put_in_front_of_is_told(text, why):
    with pytest.raises(CannotPrepend, match=why):
        prepend(text, LINES)
