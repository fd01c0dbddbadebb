"""Error of a node that cannot have the gate, or cannot give it up."""


class Refused(Exception):  # noqa: N818 - a refusal is an answer here
    """Nothing was changed, or what was changed is restored; the text is for the user."""
