"""Services that wait until their providers are ready (`gate: ready`), and circles of them. No I/O here."""

from collections.abc import Iterator, Mapping, Sequence

from compose_ext.diagnostics import Place, Problem
from compose_ext.language.project import EXTENSION, LinkEntry, Project, Service


def awaited(service: Service, entries: Sequence[LinkEntry]) -> list[LinkEntry]:
    """Return the links whose providers must be ready before a service's tasks start.

    Those of a service with `gate: ready`, those that say so themselves, and those for which `depends_on` says
    `condition: service_healthy`.
    """
    if service.gate == "false":
        return []
    return [entry for entry in entries if service.gate == "ready" or _place(service, entry) is not None]


def problems(project: Project, entries: Mapping[str, Sequence[LinkEntry]]) -> Iterator[Problem]:
    """Report waiting that contradicts itself, or never ends."""
    waits: dict[str, dict[str, Place]] = {}
    for name, found in entries.items():
        service = project.services[name]
        yield from _contradictions(service)
        if service.gate == "ready" and not found and service.gate_place:
            message = "`ready`: it links to nothing, and so waits for nothing"
            yield Problem(message, place=service.gate_place, service=name, key=f"{EXTENSION}.gate", warning=True)
        waits[name] = {
            entry.provider: _place(service, entry) or service.gate_place or entry.place
            for entry in awaited(service, found)
            if not entry.external
        }
    for circle in _circles(waits):
        path = " -> ".join([*circle, circle[0]])
        place = waits[circle[0]][circle[1 % len(circle)]]
        message = f"each waits until the next is ready, and so none ever starts: {path}. Let one of them not wait"
        yield Problem(message, place=place, service=circle[0], key=f"{EXTENSION}.gate")


def _contradictions(service: Service) -> Iterator[Problem]:
    if service.gate != "false":
        return
    for provider, options in service.options.items():
        if options.ready is not None:
            message = "`ready`: the service says `gate: false`, and so starts at once. Take one of the two away"
            key = f"{EXTENSION}.links.{provider}.gate"
            yield Problem(message, place=options.ready, service=service.name, key=key)


def _place(service: Service, entry: LinkEntry) -> Place | None:
    """Return where one link requires a ready provider; None: nowhere."""
    options = service.options.get(entry.provider)
    if options is not None and options.ready is not None:
        return options.ready
    return None if entry.external else service.healthy.get(entry.provider)


def _circles(waits: Mapping[str, Mapping[str, Place]]) -> Iterator[list[str]]:
    """Yield one circle of each set of services that wait for each other; it begins at the first in the files."""
    done: set[str] = set()
    for start in waits:
        path: list[str] = []
        stack = [iter([start])]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif step in path:
                yield path[path.index(step) :]
            elif step not in done:
                path.append(step)
                stack.append(iter(waits.get(step, ())))
