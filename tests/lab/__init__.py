"""A real Docker Swarm on one machine, to try Linkwire on and to break."""

from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node

__all__ = ["Lab", "LabError", "Node"]
