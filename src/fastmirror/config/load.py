"""Settings from flags, environment, file and defaults, in this order; every value knows where it came from."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from fastmirror.config import Settings
from fastmirror.config.check import Address, address, store
from fastmirror.errors import ConfigError

PREFIX: Final = "FASTMIRROR_"
FILE_VARIABLE: Final = "FASTMIRROR_CONFIG"
_OTHER_VARIABLES: Final = frozenset(
    {FILE_VARIABLE, *(PREFIX + name for name in ("APT", "CONTAINERD_CACHE", "DEBUG", "EDITABLE", "SANITIZE"))}
)
"""No settings: the first names their file, the others are of setup.py and tools/."""
# Kubernetes gives every pod such variables for each Service of its namespace; one called fastmirror-... is likely.
# Source: Kubernetes, "Service", environment variables.
_SERVICE_LINK: Final = re.compile(
    r"FASTMIRROR(_.+)?_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?)"
)
_FORMS: Final = {
    "seconds": "seconds, such as 0.5 or 500ms",
    "bytes": "bytes, such as 1048576 or 1MiB",
    "count": "a whole number",
    "true/false": "true or false",
    "nodes": "a whole number",
}
_LIMIT: Final = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)")
_WORDS: Final = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most"}


class Origin(NamedTuple):
    """Where a value came from: the kind of source, and which flag, variable or file."""

    kind: Literal["flag", "env", "file", "default"]
    where: str = ""

    def __str__(self) -> str:
        return {"env": f"{self.where} in the environment", "default": "default"}.get(self.kind, self.where)


class Field(NamedTuple):
    """One setting as all sources see it."""

    name: str
    section: str
    type: Any
    default: object
    help: str
    form: str
    many: bool
    choices: tuple[str, ...]
    parse: Callable[[str], object] | None
    check: Callable[[str], object] | None
    break_: re.Pattern[str]

    @property
    def flag(self) -> str:
        """The command line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


class Loaded(NamedTuple):
    """Valid settings and the origin of each, by the field's name."""

    settings: Settings
    origins: dict[str, Origin]


@cache
def fields() -> tuple[Field, ...]:
    """Every setting, in the order of the sections."""
    return tuple(
        _field(section.name, info.name, hints[info.name], info.default)
        for section in msgspec.structs.fields(Settings)
        for hints in [get_type_hints(section.type, include_extras=True)]
        for info in msgspec.structs.fields(section.type)
    )


def _field(section: str, name: str, hint: Any, default: object) -> Field:
    description = ""
    extra: dict[str, Any] = {}
    for outer in _metas(hint):
        description = outer.description or description
        extra |= outer.extra or {}
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    many = get_origin(inner) is tuple
    if many:
        for meta in _metas(get_args(inner)[0]):
            extra |= meta.extra or {}
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    return Field(
        name, section, hint, default, description, extra.get("form", "TEXT"), many, choices,
        extra.get("parse"), extra.get("check"), extra.get("break", re.compile(",")),
    )  # fmt: skip


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    return (meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta))


def load(flags: Mapping[str, str | tuple[str, ...]], environ: Mapping[str, str], file: str | None = None) -> Loaded:
    """Merge and check everything.

    ``flags`` has the options that were given, by field name, as text. ``file`` is the value of ``--config``; without
    it ``FASTMIRROR_CONFIG`` counts. Raises ConfigError for the first thing that is wrong.
    """
    given: dict[str, tuple[object, Origin]] = {}
    given |= _from_file(file, environ)
    given |= _from_environment(environ)
    by_name = {field.name: field for field in fields()}
    given |= {name: (value, Origin("flag", by_name[name].flag)) for name, value in flags.items()}
    values: dict[str, object] = {}
    origins: dict[str, Origin] = {}
    for field in fields():
        raw, origins[field.name] = given.get(field.name, (field.default, Origin("default")))
        values[field.name] = _value(field, raw, origins[field.name])
    settings = Settings(
        **{
            section.name: section.type(**{f.name: values[f.name] for f in fields() if f.section == section.name})
            for section in msgspec.structs.fields(Settings)
        }
    )
    _check_together(settings, origins)
    return Loaded(settings, origins)


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, Origin]]:
    by_variable = {field.variable: field for field in fields()}
    found: dict[str, tuple[object, Origin]] = {}
    for variable, text in sorted(environ.items()):
        if field := by_variable.get(variable):
            found[field.name] = text, Origin("env", variable)
        elif variable.startswith(PREFIX) and variable not in _OTHER_VARIABLES and not _SERVICE_LINK.fullmatch(variable):
            raise ConfigError(f"{variable}: no such setting (from the environment){_meant(variable, by_variable)}")
    return found


def _from_file(file: str | None, environ: Mapping[str, str]) -> dict[str, tuple[object, Origin]]:
    source = "--config"
    if file is None:
        file, source = environ.get(FILE_VARIABLE), FILE_VARIABLE
    if not file:
        return {}
    try:
        with open(file, "rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"config: cannot read {_quote(file)}: {error.strerror} (from {source})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {_quote(file)} is not TOML: {error} (from {source})") from error
    names = {field.name: field for field in fields()}
    for key, value in table.items():
        if key not in names:
            hint = "; keys stand at the top, without tables" if isinstance(value, dict) else ""
            raise ConfigError(f"{key}: no such setting (from {file}){_meant(key, names)}{hint}")
    return {key: (value, Origin("file", file)) for key, value in table.items()}


def _value(field: Field, raw: object, origin: Origin) -> object:
    try:
        if field.many and isinstance(raw, str | tuple):
            raw = _divide(field, raw)
        elif field.parse and isinstance(raw, str):
            raw = field.parse(raw.strip())
        for item in raw if field.many and isinstance(raw, list) else (raw,):
            _judge(field, item)
        return msgspec.convert(raw, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{field.name}: {_wanted(field, error)}, not {_quote(raw)} (from {origin})") from None
    except ValueError as error:
        raise ConfigError(f"{field.name}: {error} (from {origin})") from None


def _divide(field: Field, raw: str | tuple[str, ...]) -> list[str]:
    texts = (raw,) if isinstance(raw, str) else raw
    return [item.strip() for text in texts for item in field.break_.split(text) if item.strip()]


def _wanted(field: Field, error: msgspec.ValidationError) -> str:
    if field.choices:
        return f"expected one of {', '.join(field.choices)}"
    if field.many:
        return f"expected a list of {field.form}"
    message = str(error)
    if limit := _LIMIT.match(message):
        return f"expected {_FORMS.get(field.form, 'a number')}, {_WORDS[limit[1]]} {limit[2].removesuffix('.0')}"
    if "got" in message and field.form in _FORMS:
        return f"expected {_FORMS[field.form]}"
    return message[:1].lower() + message[1:]


def _judge(field: Field, item: object) -> None:
    if field.check and isinstance(item, str):
        try:
            field.check(item)
        except ValueError as error:
            raise ValueError(f"{error}, not {_quote(item)}") from None


def _check_together(settings: Settings, origins: Mapping[str, Origin]) -> None:
    fetch = settings.fetch

    def refuse(why: str, *names: str) -> ConfigError:
        name = next((name for name in names if origins[name].kind != "default"), names[0])
        return ConfigError(f"{name}: {why} (from {origins[name]})")

    if not settings.stores.store:
        raise refuse("at least one is needed, such as oci:./fastmirror-data", "store")
    filters = [name for name in ("allow", "deny") if getattr(settings.stores, name)]
    nameless = [text for text in settings.stores.store if store(text).kind == "content"]
    if filters and nameless:
        why = (
            f"{nameless[0]} has no names to filter by: only containerd's socket tells which image a file belongs to; "
            f"take the filter away, or use containerd:SOCKET,content={store(nameless[0]).path}"
        )
        raise refuse(why, *filters)
    if fetch.holdback_bytes > fetch.whole_bytes:
        why = f"holdback_bytes ({fetch.holdback_bytes}) must not exceed whole_bytes ({fetch.whole_bytes})"
        raise refuse(why, "holdback_bytes", "whole_bytes")
    if fetch.spool_bytes < fetch.whole_bytes:
        why = f"spool_bytes ({fetch.spool_bytes}) must not be less than whole_bytes ({fetch.whole_bytes})"
        raise refuse(why, "spool_bytes", "whole_bytes")
    _check_routing(settings, refuse)
    _check_ports(settings, refuse)


Refuse = Callable[..., ConfigError]


def _check_routing(settings: Settings, refuse: Refuse) -> None:
    router = settings.router
    if router.router == "static" and router.bootstrap:
        raise refuse("only the libp2p router uses it: take router = static away", "bootstrap")
    if not router.joins:
        return
    if settings.fetch.peers:
        raise refuse("the libp2p router finds other nodes by itself: give peers or bootstrap, not both", "peers")
    ours, theirs = address(router.router_addr).host, address(settings.serve.peer_addr).host
    if ours != theirs and not _any({ours}) and not _any({theirs}):
        why = f"router_addr ({ours}) and peer_addr ({theirs}) need the same host: others learn one by the other"
        raise refuse(why, "router_addr", "peer_addr")


def _check_ports(settings: Settings, refuse: Refuse) -> None:
    listeners = {name: getattr(settings.serve, name) for name in ("registry_addr", "peer_addr", "admin_addr")}
    if settings.router.joins:
        listeners["router_addr"] = settings.router.router_addr
    seen: dict[str, Address] = {}
    for name, text in listeners.items():
        mine = address(text)
        for other, theirs in seen.items():
            if mine.port and mine.port == theirs.port and (mine.host == theirs.host or _any({mine.host, theirs.host})):
                raise refuse(f"{name} {mine} and {other} {theirs} need different ports", name, other)
        seen[name] = mine


def _any(hosts: set[str]) -> bool:
    return bool(hosts & {"0.0.0.0", "::"})


def _meant(word: str, known: Mapping[str, Field]) -> str:
    close = {key.removeprefix(PREFIX): key for key in known}
    best = difflib.get_close_matches(word.removeprefix(PREFIX), close, n=1, cutoff=0.7)
    return f"; did you mean {close[best[0]]}?" if best else ""


def _quote(value: object) -> str:
    return json.dumps(value, default=str)[:200]
