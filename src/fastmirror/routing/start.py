"""From settings to what the router process is told first."""

from __future__ import annotations

import ipaddress
import socket

from fastmirror.config import Settings, check
from fastmirror.errors import ConfigError
from fastmirror.inventory.bridge import Start
from fastmirror.inventory.card import MAX_NAME


def start_of(settings: Settings, peer_listener: str, epoch: int) -> Start:
    """``peer_listener`` is where the peer listener is, as HOST:PORT. Raises ConfigError for a name as router_addr."""
    mine, listen, peer = settings.router, check.address(settings.router.router_addr), check.address(peer_listener)
    try:
        ipaddress.ip_address(listen.host)
    except ValueError:
        raise ConfigError(f"router_addr: expected an IP address, not {listen.host}") from None
    return Start(
        listen_host=listen.host,
        listen_port=listen.port,
        peer_host=peer.host,
        peer_port=peer.port,
        bootstrap=list(mine.bootstrap),
        peer_cidr=list(mine.peer_cidr),
        data_dir=mine.data_dir,
        secret_file=mine.admission_secret_file,
        allowed_ids=list(mine.allow_peer_id),
        degree=mine.degree,
        name=mine.node_name or socket.gethostname()[:MAX_NAME],
        zone=mine.zone,
        epoch=epoch,
        log_level=settings.log.log_level,
    )
