"""Write docs/configuration.md and docs/metrics.md from the code: ``python -m tools.gendocs [--check]``.

With ``--check`` nothing is written; the exit code is 1 if a page is not what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from fastmirror.cli import text
from fastmirror.config import Settings
from fastmirror.config.load import Field, fields
from fastmirror.observe.metrics import Metrics

DOCS = Path(__file__).parents[1] / "docs"

CONFIGURATION = """\
# Settings

Each setting is a flag of `fastmirror serve`, an environment variable, or a key at the top of a TOML file (named by
`--config` or `FASTMIRROR_CONFIG`). A flag wins over the environment, which wins over the file, which wins over the
default. `fastmirror config show` prints every value with where it came from.

- Times are seconds (`0.5`) or have a unit (`500ms`, `10s`, `2m`, `1h`).
- Sizes are bytes (`8388608`) or have a unit (`64KiB`, `8MiB`, `16GiB`).
- Lists are divided by commas; a flag may also be given several times; in the file they are arrays.
- A key or variable that does not exist is an error (exit code 2) that names it and where it stands, so that a typing
  error is never silently ignored. Variables that Kubernetes makes for Services (`FASTMIRROR_..._SERVICE_HOST` and
  the like) are not settings and are passed over.
"""

METRICS = """\
# Metrics

`GET /metrics` on the admin listener, in Prometheus' text format. Every series is there from the start with 0, so that
rates are right from the first event. Labels never hold a peer, a digest or a repository: their values are those in
the tables. Beside these there are `process_*` (CPU, memory, descriptors, start time) as every Prometheus client has
them.
"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _row(*heads)
    yield _row(*("---" for _ in heads))
    yield from (_row(*row) for row in rows)


def _sentence(doc: str | None) -> str:
    return (doc or "").partition("\n")[0]


def configuration() -> str:
    """The page of settings: one table for each section."""
    lines = [CONFIGURATION]
    for section in msgspec.structs.fields(Settings):
        lines += [f"## {_sentence(section.type.__doc__).rstrip('.')}", ""]
        rows = [_setting(field) for field in fields() if field.section == section.name]
        lines += [*_table(("flag", "environment", "value", "default", "what it is"), rows), ""]
    return "\n".join(lines)


def _setting(field: Field) -> tuple[str, ...]:
    default = text(field.default)
    form = ", ".join(f"`{choice}`" for choice in field.choices) or field.form
    return (
        f"`{field.flag}`",
        f"`{field.variable}`",
        f"list of {form}" if field.many else form,
        f"`{default}`" if default else "",
        field.help,
    )


def metrics() -> str:
    """The page of metrics: one table for each group."""
    lines = [METRICS]
    for group in vars(Metrics()).values():
        lines += [f"## {_sentence(group.__doc__).rstrip('.')}", ""]
        rows = [
            (
                f"`{family.name}`",
                family.kind,
                "; ".join(f"{name}: {', '.join(_values(name, values))}" for name, values in family.labels.items()),
                family.help,
            )
            for family in vars(group).values()
        ]
        lines += [*_table(("metric", "type", "labels", "meaning"), rows), ""]
    return "\n".join(lines)


def _values(name: str, values: tuple[str, ...]) -> Iterable[str]:
    return ("...",) if name in ("version", "python") else values


def main() -> int:
    """Write both pages, or compare them."""
    code = 0
    for path, page in ((DOCS / "configuration.md", configuration()), (DOCS / "metrics.md", metrics())):
        if "--check" not in sys.argv[1:]:
            path.write_text(page)
        elif not path.exists() or path.read_text() != page:
            print(f"{path.name} is not what the code says; run: python -m tools.gendocs", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
