"""`docker linkwire node encryption prepare`: a machine that has yet to join sends no overlay packet in plain."""

from collections.abc import Iterable

import click

from compose_ext.docker_cli import Docker
from compose_ext.pflag import Command, pass_docker
from compose_ext.swarm import listings
from mesh.model.encryption.status import DEVICE

DEVICES = (DEVICE, f"{DEVICE}2")
_SCRIPT = """#!/bin/sh
# Printed by `docker linkwire node encryption prepare`, for a machine that is to join this Swarm: run it as root
# before `docker swarm join`. It refuses overlay packets in plain text (UDP {port}) from the first on, as the node's
# agent does, which takes these rules over. They do not outlive a reboot.
set -eu
PATH=$PATH:/usr/sbin:/sbin
command -v nft >/dev/null || {{ echo "nft is not there: install nftables" >&2; exit 1; }}
! nft list table inet linkwire_nodes >/dev/null 2>&1 || exit 0
nft -f - <<'EOF'
create table inet linkwire_nodes
add counter inet linkwire_nodes refused_in
add counter inet linkwire_nodes refused_out
add chain inet linkwire_nodes input {{ type filter hook input priority -10; policy accept; }}
add rule inet linkwire_nodes input meta ipsec exists accept
add rule inet linkwire_nodes input iifname != {{ {devices} }} udp dport {port} counter name refused_in drop
add chain inet linkwire_nodes output {{ type filter hook output priority -10; policy accept; }}
add rule inet linkwire_nodes output rt ipsec exists accept
add rule inet linkwire_nodes output oifname != {{ {devices} }} udp dport {port} counter name refused_out drop
EOF
"""


def script(port: int, devices: Iterable[str] = DEVICES) -> str:
    """Return the script for a machine, whose rules are those of `agent.node_encryption.ruleset`.

    Args:
        port: UDP, of the Swarm's VXLAN.
        devices: names of a node's devices.
    """
    return _SCRIPT.format(port=port, devices=", ".join(f'"{name}"' for name in ("lo", *devices)))


@click.command(
    "prepare",
    cls=Command,
    usage="docker linkwire node encryption prepare",
    examples="""
        docker linkwire node encryption prepare
    """,
)
@pass_docker
def prepare_command(docker: Docker) -> None:
    """Print a shell script for a machine that is to join.

    In `strict` and `all` a node refuses plain overlay packets as soon as its agent runs. A machine that has just
    joined may have tasks before: with the script, run as root before `docker swarm join`, nothing of theirs leaves in
    plain text. It needs the program nft, and changes nothing else. Needs a manager, which knows the port.
    """
    print(script(listings.manager(docker).data_path_port), end="")
