"""The commands that deal with containerd's side: configure, cleanup. Added to the command line by ``cli``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    Exit codes: 0 done; 1 something could not be done (it says what); 2 wrong use.
    """
    from fastmirror.containerd.configure import check_mirror, preview, write

    wanted = _wanted(**given)  # type: ignore[arg-type]
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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Keeper(certs, wanted).run(stop)


@click.command()
@_certs_dir
@_diff
@_dry_run
def cleanup(certs_dir: str, show_diff: bool, dry_run: bool) -> None:
    """Give containerd's hosts.toml files back as they were before `fastmirror configure`.

    What was edited by hand since stays, without our lines, and is reported.
    """
    from fastmirror.containerd.configure import give_back, preview

    certs = Path(certs_dir)
    if dry_run or show_diff:
        plan, difference = preview(certs, None)
        if show_diff:
            click.echo(difference, nl=False)
        if dry_run:
            _report(plan, certs, "would be")
            return
    _report(give_back(certs), certs, "was")


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
