"""The commands that deal with containerd's side: configure, cleanup. Added to the command line by ``cli``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmirror.config import check
from fastmirror.config.check import Address
from fastmirror.errors import ConfigError

if TYPE_CHECKING:
    from fastmirror.containerd.plan import Plan, Wanted

# Imports inside functions: `serve` loads this module and needs none of them.

_certs_dir = click.option(
    "--certs-dir",
    metavar="DIR",
    default="/etc/containerd/certs.d",
    show_default=True,
    help="The directory that containerd's config_path names.",
)
_diff = click.option("--diff", "show_diff", is_flag=True, help="Show what changes in the files.")
_dry_run = click.option("--dry-run", is_flag=True, help="Change nothing, only say what would be.")


@click.command()
@_certs_dir
@click.option("--mirror", metavar="URL", default="http://127.0.0.1:5000", show_default=True, help="This node's mirror.")
@click.option("--registry", "registries", metavar="HOST", multiple=True, help="Only for this registry (repeatable).")
@click.option("--resolve-tags", is_flag=True, help="Let the mirror answer tags too, not only digests.")
@click.option("--replace", is_flag=True, help="Back up and replace files that nothing can be put in front of.")
@click.option("--watch", is_flag=True, help="Wait for the mirror, then keep the files right until SIGTERM.")
@_diff
@_dry_run
def configure(certs_dir: str, show_diff: bool, dry_run: bool, watch: bool, **given: object) -> None:
    """Make containerd ask this node's mirror first, by hosts.toml files.

    Without --registry it is _default/hosts.toml, for all registries that have no directory of their own. Files that are
    there are kept: the mirror goes in front of their hosts, and `fastmirror cleanup` gives them back as they were.
    Each call says all that is wanted: what an earlier one did for registries that this one does not name is given back
    (--registry _default --registry docker.io for both).
    Exit codes: 0 done; 1 something could not be done (it says what); 2 wrong use.
    """
    from fastmirror.containerd.configure import check_mirror, preview, write

    wanted = _wanted(**given)  # type: ignore[arg-type]
    if ":" in certs_dir:
        raise ConfigError(f"certs-dir: expected one directory, not the list {certs_dir!r}")
    certs = Path(certs_dir)
    if dry_run or show_diff:
        plan, difference = preview(certs, wanted)
        if show_diff:
            click.echo(difference, nl=False)
        if dry_run:
            _report(plan, certs, "would be")
    if dry_run:
        return
    if watch:
        _keep(certs, wanted)
        return
    version = check_mirror(wanted.mirror)
    click.echo(f"fastmirror {version} answers at {wanted.mirror}")
    _report(write(certs, wanted), certs, "was")


def _wanted(mirror: str, registries: tuple[str, ...], resolve_tags: bool, replace: bool) -> Wanted:
    from fastmirror.containerd import hosts
    from fastmirror.containerd.plan import Wanted

    targets = dict.fromkeys(map(hosts.target, registries or (hosts.DEFAULT,)))
    return Wanted(tuple(targets), hosts.mirror_url(mirror), resolve_tags, replace)


def _keep(certs: Path, wanted: Wanted) -> None:
    from fastmirror.containerd.configure import Keeper
    from fastmirror.observe import log as logs

    logs.setup("info")
    Keeper(certs, wanted).run(_told_to_stop())


@click.command()
@_certs_dir
@_diff
@_dry_run
@click.option("--once-gone", metavar="URL", help="Wait until no fastmirror answers here, then give back. With --tell.")
@click.option("--tell", metavar="HOST:PORT", help="Stay, and tell here whether it is done, until SIGTERM.")
@click.option("--await", "awaited", metavar="NAME:PORT", help="Change nothing: wait for all that --tell here.")
@click.option("--timeout", metavar="SECONDS", default="5m", show_default=True, help="How long --await waits.")
def cleanup(certs_dir: str, show_diff: bool, dry_run: bool, **many: str | None) -> None:
    """Give containerd's hosts.toml files back as they were before `fastmirror configure`.

    What was edited by hand since stays, without our lines, and is reported.
    """
    from fastmirror.containerd.configure import give_back, preview

    certs = Path(certs_dir)
    if many["tell"] or many["once_gone"] or many["awaited"]:
        if dry_run or show_diff:
            raise ConfigError("cleanup: --diff and --dry-run are for one node; leave --tell and --await out")
        _leave(certs, **many)
        return
    if dry_run or show_diff:
        plan, difference = preview(certs, None)
        if show_diff:
            click.echo(difference, nl=False)
        if dry_run:
            _report(plan, certs, "would be")
            return
    _report(give_back(certs), certs, "was")


def _leave(certs: Path, tell: str | None, once_gone: str | None, awaited: str | None, timeout: str | None) -> None:
    from fastmirror.containerd import hosts, leaving
    from fastmirror.observe import log as logs

    logs.setup("info")
    stop = _told_to_stop()
    if awaited:
        if tell or once_gone:
            raise ConfigError("cleanup: --await is for elsewhere than --tell and --once-gone: give one or the other")
        for told in leaving.await_all(_place(awaited, "await"), _seconds(timeout or "5m"), stop):
            click.echo(f"{told.node}: done" + "".join(f"; {remark}" for remark in told.remarks))
        return
    if not tell or not once_gone:
        raise ConfigError("cleanup: --tell and --once-gone go together")
    leaving.stay(certs, hosts.mirror_url(once_gone), _place(tell, "tell"), stop)


def _place(text: str, option: str) -> Address:
    try:
        return check.address(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error} (from --{option})") from None


def _seconds(text: str) -> float:
    try:
        return float(check.seconds(text))
    except ValueError:
        raise ConfigError(f"timeout: expected seconds, such as 90 or 5m, not {text!r} (from --timeout)") from None


def _told_to_stop() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _report(plan: Plan, certs: Path, verb: str) -> None:
    """Print what changed; exits with 1 if something that was asked for was not done."""
    for step in plan.steps:
        what = "removed" if step.after is None else "written"
        click.echo(f"{certs / step.path} {verb} {what}")
    if not plan.steps and not plan.remarks:
        click.echo("nothing to change")
    for remark in plan.remarks:
        click.echo(f"{certs / remark.path} {remark.text}", err=remark.kind == "problem")
    if any(remark.kind == "problem" for remark in plan.remarks):
        raise SystemExit(1)
