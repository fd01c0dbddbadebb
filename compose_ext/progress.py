"""Lines of progress, one a step."""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"linkwire: {text}", flush=True)
