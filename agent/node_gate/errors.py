"""Error of a node that cannot have the gate, or cannot give it up."""


class GateError(Exception):
    """Nothing was changed, or what was changed is restored; the text is for the user."""
