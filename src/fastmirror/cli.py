"""The command line.

Exit codes: 0 done; 1 cannot, and the text says what to do; 2 wrong use or wrong settings; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from fastmirror import __version__
from fastmirror.config import check
from fastmirror.config.load import Field, Loaded, fields, load
from fastmirror.containerd import commands
from fastmirror.errors import ConfigError, FastmirrorError, ImportFailed, NameInvalid, StoreError
from fastmirror.oci.reference import Reference

if TYPE_CHECKING:
    from fastmirror.store.layout import LayoutStore

_USUAL_STORE: Final = ("containerd:/run/containerd/containerd.sock",)  # what doctor looks at

Command = TypeVar("Command", bound=Callable[..., Any])

_format_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="how to print", show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors (anywhere on the line).")
def fastmirror(**_: Any) -> None:
    """A node-local, peer-to-peer mirror for OCI images, in front of containerd."""


def settings_options(
    *names: str, defaults: Mapping[str, object] = MappingProxyType({}), **helps: str
) -> Callable[[Command], Command]:
    """Options for the named settings (all without names), and ``--config``, generated from the settings' type.

    ``helps`` are texts for settings that mean less here than elsewhere, ``defaults`` what the help says of settings
    that the command takes for something else where nobody gives them.
    """

    def decorate(command: Command) -> Command:
        for field in reversed(fields()):
            if not names or field.name in names:
                here = {"help": helps.get(field.name, field.help), "default": defaults.get(field.name, field.default)}
                command = _option(field._replace(**here))(command)
        return click.option("--config", metavar="FILE", help="TOML file with settings [env: FASTMIRROR_CONFIG]")(
            command
        )

    return decorate


def _option(field: Field) -> Callable[[Command], Command]:
    default = text(field.default)
    notes = [f"default: {default}"] if default else []
    notes.append(f"env: {field.variable}")
    metavar = "|".join(field.choices) if field.choices else field.form.upper()
    alone: dict[str, Any] = {}
    if field.form == "true/false":
        metavar, alone = "[true|false]", {"is_flag": False, "flag_value": "true"}
    return click.option(
        field.flag,
        field.name,
        multiple=field.many,
        metavar=metavar + (",..." if field.many else ""),
        help=f"{field.help} [{'; '.join(notes)}]",
        **alone,
    )


def text(value: object) -> str:
    """A setting's value as it is written in the environment."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _load(config: str | None, given: dict[str, Any]) -> Loaded:
    return load({name: value for name, value in given.items() if value not in (None, ())}, os.environ, config)


@fastmirror.command()
@click.option("--supervise", is_flag=True, help="Run in a child that is started again when it dies or is stuck.")
@settings_options()
def serve(supervise: bool, config: str | None, **given: Any) -> int:
    """Serve this node's images to its containerd and to other nodes."""
    settings = _load(config, given).settings
    from fastmirror import supervisor
    from fastmirror.observe import log

    log.setup(settings.log.log_level)
    if supervise:
        return supervisor.supervise([argument for argument in sys.argv[1:] if argument != "--supervise"])
    supervisor.remind((check.store(text).kind for text in settings.stores.store), os.environ)
    from fastmirror import daemon  # here, so that the other commands start without the server

    daemon.run(settings)
    return 0


@fastmirror.command("import")
@click.argument("archives", metavar="FILE...", nargs=-1, required=True)
@click.option("--name", metavar="REF", help="Name for the image, such as docker.io/library/debian:12 (one FILE only).")
@settings_options("store", store="oci:DIR, the image layout that gets the images")
@_format_option
def import_(archives: tuple[str, ...], name: str | None, config: str | None, output: str, **given: Any) -> None:
    """Put images from archives into an OCI image layout.

    A FILE is an oci-archive or what docker save writes, "-" is standard input. One that cannot be imported keeps the
    others from nothing. Of several stores in the settings the first gets the images.
    """
    reference = _reference(name, len(archives))
    settings = _load(config, given).settings
    from fastmirror.store.importer import check_archive, import_archive

    address = check.store(settings.stores.store[0])
    if address.kind != "oci":
        raise ConfigError(f"store: {address} cannot be imported into; give oci:DIR, or let containerd import it")
    rows: list[tuple[str, str]] = []
    failed: list[str] = []
    with contextlib.ExitStack() as closing:
        store: LayoutStore | None = None
        for archive in archives:
            try:
                if store is None:
                    if not os.path.exists(address.path):  # no store is made for nothing
                        check_archive(archive, reference)
                    store = _open_first(address.path)
                    closing.callback(store.close)
                for image in import_archive(store, archive, reference, _progress(archive)):
                    target = store.resolve(image)
                    rows.append((str(image), "" if target is None else str(target.digest)))
            except ImportFailed as error:
                failed.append(str(error))
    if rows or not failed:
        _print_imported(rows, output)
    if failed:
        raise ImportFailed("; ".join(failed))


def _open_first(path: str) -> LayoutStore:
    from fastmirror.store.layout import open_layout

    try:
        return open_layout(Path(path), create=True)
    except StoreError as error:
        raise StoreError(f"store: {error}") from error


def _print_imported(rows: list[tuple[str, str]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps([{"name": image, "digest": digest} for image, digest in rows]))
    else:
        click.echo(table([("NAME", "DIGEST"), *rows]))


def _reference(name: str | None, files: int) -> Reference | None:
    if name is None:
        return None
    if files > 1:
        raise ConfigError("name: one name cannot be given to several files (from --name); import them one by one")
    if "@" in name:
        raise ConfigError(f"name: expected a tag, not a digest, in {json.dumps(name)[:200]} (from --name)")
    try:
        return Reference.parse(name)
    except NameInvalid as error:
        raise ConfigError(f"name: {error.message}, not {json.dumps(name)[:200]} (from --name)") from None


def _progress(archive: str) -> Callable[[int, int], None]:
    """Shows how far it is on a terminal, and nothing elsewhere."""
    shown = -1
    terminal = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = done * 100 // total if total else 100
        if terminal and percent != shown:
            shown = percent
            click.echo(f"\r{Path(archive).name}: {percent} %" + ("\n" if percent == 100 else ""), err=True, nl=False)

    return show


@fastmirror.command()
@click.argument("image")
@click.option("--mirror", metavar="URL", default="http://127.0.0.1:5000", show_default=True, help="Ask this first.")
@click.option("--origin", "origins", metavar="URL", multiple=True, help="Then ask this registry (repeatable).")
@click.option("--admin", metavar="URL", help="Ask the mirror here which peer gave what, such as http://127.0.0.1:5002.")
@click.option("--into", metavar="oci:DIR", help="Keep it in this image layout; without, it is checked and forgotten.")
@click.option("--at-once", type=click.IntRange(1, 64), default=3, show_default=True, help="Blobs at a time.")
@click.option("--platform", metavar="OS/ARCH", help="Of a multi-platform image. [default: this machine's]")
@click.option("--progress", is_flag=True, help="Show on stderr how far it is.")
@_format_option
def pull(output: str, **given: Any) -> None:
    """Pull IMAGE through a mirror, as containerd would, and say what each part of it took.

    Every digest is checked. Exit codes: 0 pulled; 1 not pulled, and the text says what, from where, why; 2 wrong use.
    """
    from fastmirror.pull import command  # here: http.client and ssl cost other commands time and memory

    report, failure = command.run(command.Given(**given))
    if output == "json":
        click.echo(report.to_json())
    else:
        tables = [table(rows) for rows in (report.objects(), report.peers()) if rows]
        parts = [*tables, "\n".join(report.notes())]
        click.echo("\n\n".join(filter(None, parts)), nl=any(parts))
    if failure is not None:
        raise failure


@fastmirror.command()
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="For each row.")
@click.option("--dir", "directory", metavar="DIR", help="Where 264 MiB are written. [default: the temporary directory]")
@_format_option
def bench(seconds: float, directory: str | None, output: str) -> None:
    """Measure how fast a node serves on this machine, over loopback, in about 20 seconds.

    Starts nodes of its own with default settings; the running one is not asked. Exit codes: 0 measured; 1 not.
    """
    from fastmirror.bench import report  # here: subprocess and selectors cost other commands time

    terminal = sys.stderr.isatty()
    made = report.measure(directory, seconds, lambda doing: click.echo(doing, err=True) if terminal else None)
    if output == "json":
        click.echo(made.to_json())
    else:
        click.echo(table(made.table()) + "\n\n" + "\n".join(made.notes()))


fastmirror.add_command(commands.configure)
fastmirror.add_command(commands.cleanup)


@fastmirror.command()
@click.option("--certs-dir", metavar="DIR", default="/etc/containerd/certs.d", show_default=True)
@click.option("--containerd-config", metavar="FILE", default="/etc/containerd/config.toml", show_default=True)
@click.option("--mirror", metavar="URL", help="Where containerd is sent. [default: http:// and --registry-addr]")
@click.option("--registry", "registries", metavar="HOST", multiple=True, help="Look at this registry too (repeatable).")
@click.option("--probe", is_flag=True, help="Let CRI pull a name that cannot exist, to see which hosts.toml it reads.")
@settings_options(
    "store", "containerd_namespace", "registry_addr", "peer_addr", "peers", "admin_addr", "bootstrap", "spool_dir",
    "spool_bytes", defaults={"store": _USUAL_STORE}, store="containerd is looked at if one is containerd:SOCKET",
    admin_addr="where the running node is asked which others it has and whether they answer",
)  # fmt: skip
@_format_option
def doctor(config: str | None, output: str, **given: Any) -> int:
    """Look for what keeps containerd and this node's mirror from working together.

    Without --peers the running node is asked for the others (--admin-addr).
    Exit codes: 0 all is fine; 1 there is a problem; 2 wrong use; 3 no problem, but not all could be seen.
    """
    own = {name: given.pop(name) for name in ("certs_dir", "containerd_config", "mirror", "registries", "probe")}
    loaded = _load(config, given)
    if loaded.origins["store"].kind == "default":
        loaded = _load(config, given | {"store": _USUAL_STORE})
    settings = loaded.settings
    from fastmirror import peers as known  # here, both: http.client and grpc cost other commands time and memory
    from fastmirror.containerd import doctor, findings

    if settings.router.joins or not settings.fetch.peers:
        try:
            own["nodes"] = tuple(known.ask(check.address(settings.serve.admin_addr)))
        except known.PeersUnknown as error:
            own["nodes"] = str(error)
    made = doctor.run(doctor.questions(settings, **own))
    if output == "json":
        click.echo(doctor.to_json(made))
    else:
        click.echo(doctor.render(made))
    return findings.exit_of(made).value


@fastmirror.command()
@settings_options("admin_addr")
@_format_option
def peers(config: str | None, output: str, **given: Any) -> None:
    """Show the other nodes as the running node on --admin-addr sees them."""
    address = _load(config, given).settings.serve.admin_addr
    from fastmirror import peers as known  # here: http.client costs other commands time and memory

    rows = known.ask(check.address(address))
    click.echo(known.to_json(rows) if output == "json" else table(known.rows(rows)))


@fastmirror.group()
def config() -> None:
    """Look at settings."""


@config.command("show")
@settings_options()
@_format_option
def show(config: str | None, output: str, **given: Any) -> None:
    """Print each setting and where its value came from."""
    loaded = _load(config, given)
    rows = [
        (field, getattr(getattr(loaded.settings, field.section), field.name), loaded.origins[field.name])
        for field in fields()
    ]
    if output == "json":
        click.echo(
            json.dumps(
                {
                    field.name: {"value": value, "origin": {"kind": origin.kind, "where": origin.where}}
                    for field, value, origin in rows
                },
                indent=2,
            )
        )
    else:
        click.echo(table([("SETTING", "VALUE", "FROM"), *((f.name, text(value), str(o)) for f, value, o in rows)]))


@fastmirror.command()
@_format_option
def version(output: str) -> None:
    """Print the version of fastmirror and of what it is built on."""
    from importlib import metadata  # here: it loads parsers for mail and archives, which the daemon need not hold

    versions = {"fastmirror": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("uvloop", "httptools", "msgspec")}
    if output == "json":
        click.echo(json.dumps(versions))
    else:
        click.echo(table(list(versions.items())))


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns for a terminal: padded, two spaces between, no borders; text outside ASCII escaped."""
    cells = [[json.dumps(cell)[1:-1].replace('\\"', '"').replace("\\\\", "\\") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit; what goes wrong is one line on stderr."""
    _fill_standard_descriptors()
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    try:
        code = fastmirror.main([arg for arg in args if arg != "--debug"], prog_name="fastmirror", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(error, error.format_message(), 2, debug)
    except ConfigError as error:
        _fail(error, str(error), 2, debug)
    except FastmirrorError as error:
        _fail(error, str(error), 1, debug)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort; --debug shows the traceback
        what = f"a defect in fastmirror: {type(error).__name__}: {error}; --debug shows where"
        _fail(error, what, 1, debug)


def _fill_standard_descriptors() -> None:
    """Whoever starts us may have closed them: a socket with the number of stderr would get the log."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number; open(2)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _fail(error: BaseException, message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    line = " ".join(message.split()).encode("ascii", "backslashreplace").decode()
    click.echo(f"fastmirror: {line}", err=True)
    sys.exit(code)
