"""``python -m demo``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

from demo import images, network, nodes, real, report, steps
from demo.cluster import NodeFailed
from demo.steps import Settings

WORK = Path(__file__).resolve().parents[1] / "var" / "demo"


def _given() -> tuple[str, Settings]:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="Three nodes and an origin on this machine; a node dies in mid-pull."
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where images and stores are (default: var/demo)")
    parser.add_argument(
        "--source",
        choices=("debian", "files"),
        default="debian",
        help="what the image is made of: Debian packages where mmdebstrap works, or only files of this machine",
    )
    parser.add_argument("--mebibytes", type=int, default=96, help="size of the layer of this machine's files")
    parser.add_argument("--origin-rate", type=float, default=40.0, help="MiB per second from the origin, all together")
    parser.add_argument("--link-rate", type=float, default=60.0, help="MiB per second between two nodes")
    parser.add_argument(
        "--wrong-byte", action="store_true", help="let the origin lie about one byte, to see that it is noticed"
    )
    parser.add_argument(
        "--client",
        choices=("auto", "containerd", "plain"),
        default="auto",
        help="who pulls: real containerds in network namespaces, a client that does what containerd does, or the "
        "former where this machine allows it",
    )
    given = parser.parse_args()
    return given.client, Settings(
        work=given.work.resolve(),
        source=given.source,
        mebibytes=given.mebibytes,
        origin_rate=given.origin_rate,
        link_rate=given.link_rate,
        wrong_byte=given.wrong_byte,
    )


def _obstacle() -> str:
    """Why there can be no real containerd; empty if there can."""
    return network.obstacle() or ("" if nodes.newest() else "there is none (tools/containerd-versions.sh gets it)")


async def _run(settings: Settings, image: images.Image, screen: report.Screen, *, real_one: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await (real.run if real_one else steps.run)(settings, image, screen)


def main() -> int:
    """Exit status: 0 as promised; 1 a pull failed or a digest is wrong; 130 or 143 interrupted or terminated."""
    (client, settings), screen, began = _given(), report.Screen(sys.stdout), time.monotonic()
    inside = network.INSIDE in os.environ
    try:
        if not inside:
            screen.say("making the image (kept for the next time)")
        image = images.prepare(settings.work, settings.source, settings.mebibytes)
        if not inside:
            screen.say(f"{image.reference}: {report.mebibytes(image.size)} in {len(image.descriptors)} objects")
            obstacle = _obstacle() if client != "plain" else ""
            if obstacle and client == "containerd":
                screen.say(f"FAILED: no containerd here: {obstacle}")
                return 1
            if obstacle:
                screen.say(f"without containerd ({obstacle}): a client that does what it does takes its place")
            elif client != "plain":
                network.enter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            good = runner.run(_run(settings, image, screen, real_one=inside))
        screen.say(f"{time.monotonic() - began:.1f} s in all")
    except NodeFailed as error:
        screen.say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        screen.say("interrupted; everything is stopped")
        return 130
    except asyncio.CancelledError:
        screen.say("terminated; everything is stopped")
        return 143
    return 0 if good else 1


sys.exit(main())
