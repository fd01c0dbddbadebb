"""The name of a stack, as Swarm accepts it."""

from compose_ext.errors import UsageError
from mesh.labels import check_service_name


def stack_name(name: str) -> str:
    """Check a stack's name: it begins the names of its services.

    Raises:
        UsageError: Swarm would refuse it.
    """
    try:
        check_service_name(name)
    except ValueError as error:
        raise UsageError(f"{name!r} cannot name a stack: {error}") from None
    return name
