"""All mutants; docs/threat-model.md has the attackers that the defences are for."""

from __future__ import annotations

from tests.mutants.decisions import DECISIONS
from tests.mutants.nodes import NODES
from tests.mutants.signatures import SIGNATURES
from tests.mutants.surroundings import SURROUNDINGS

MUTANTS = (*SIGNATURES, *DECISIONS, *NODES, *SURROUNDINGS)
