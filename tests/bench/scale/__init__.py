"""10,000 tasks on 300 nodes, simulated: real etcd, controller and agents, with the last adapter replaced."""

from tests.bench.scale.rows import measure

__all__ = ["measure"]
