"""Compose files of a command line: read, parsed and checked together."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from compose_ext.diagnostics import Report, UsageError
from compose_ext.document import env_file
from compose_ext.document.depends_on import shortened
from compose_ext.document.loader import STDIN, Document, Source, load, read
from compose_ext.language.project import Project
from compose_ext.language.schema import read as read_project
from compose_ext.language.validation import Links, check

COMPOSE_FILE = "COMPOSE_FILE"
"""Variable in which `docker compose` finds its files, with the next one between their names."""
SEPARATOR = "COMPOSE_PATH_SEPARATOR"


@dataclass(frozen=True, slots=True)
class Named:
    """The files of one command line."""

    paths: tuple[str, ...]
    env_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """The user's files, read and checked."""

    sources: tuple[Source, ...]
    links: Links | None
    """None: no file has `x-wireguard`, or none could be read."""
    documents: tuple[Document, ...] = ()
    """All files, if all could be read."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables that Docker needs in its environment besides ours."""


def split(values: Sequence[str]) -> list[str]:
    """Return the paths in `-c` values: as Docker's, each may hold several, separated by commas.

    Raises:
        UsageError: there is none, or standard input is named twice.
    """
    try:
        paths = [path for value in values for row in csv.reader([value], strict=True) for path in row if path]
    except csv.Error:
        raise UsageError("a quote in the value of --compose-file is never closed") from None
    if not paths:
        raise UsageError("which compose files? name them with -c FILE, or -c - for standard input")
    if paths.count(STDIN) > 1:
        raise UsageError("standard input (-c -) can be read only once")
    return paths


def from_environment() -> list[str]:
    """Return the paths in COMPOSE_FILE, which docker compose reads where no file is named; [] if it is not set."""
    separator = os.environ.get(SEPARATOR) or os.pathsep
    return [path for path in os.environ.get(COMPOSE_FILE, "").split(separator) if path]


def open_all(named: Named, report: Report) -> Files:
    """Read and check the files; problems go into the report."""
    variables = env_file.read_all(named.env_files, os.environ, report)
    added = {name: value for name, value in variables.items() if name not in os.environ}
    sources = tuple(source for path in named.paths if (source := read(path, report)))
    documents = tuple(document for source in sources if (document := load(source, report)))
    if len(documents) < len(named.paths):
        return Files(sources, None)
    project = read_project(documents, variables, report, env_file.hint(named.env_files))
    links = check(project, report) if project else None
    if project:
        sources = tuple(_taken_by_docker(source, project) for source in sources)
    return Files(sources, links, documents, added)


def _taken_by_docker(source: Source, project: Project) -> Source:
    """The source with the long form of `depends_on`, which is ours to keep, in the form that Docker takes."""
    places = {place for service in project.services.values() for place in service.long_depends}
    spots = {(place.line, place.column) for place in places if place.file == source.name}
    if not spots:
        return source
    text = shortened(source.data.decode("utf-8-sig"), spots)
    return replace(source, data=text.encode(), rereadable=False)
