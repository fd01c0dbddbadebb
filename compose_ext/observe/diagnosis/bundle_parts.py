"""Parts of the support bundle: each one question to Docker or to the agent, of which only chosen fields are kept."""

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from compose_ext import COMMIT, __version__
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.install import renew
from compose_ext.observe.diagnosis import log_lines
from compose_ext.observe.diagnosis.log_lines import Backlog, Choice
from compose_ext.observe.diagnosis.logs import Reader
from compose_ext.swarm import installation, link_states, listings
from compose_ext.swarm.installation import STACK

LINES = 20_000
"""Lines of logs, the newest."""
TIMEOUT = 60.0
_SPEC = ("Mode", "UpdateConfig", "RollbackConfig", "EndpointSpec")
_CONTAINER = ("Image", "Args", "Command", "CapabilityAdd")
_OPTION = "LINKWIRE_"

Part = Callable[[Docker], str]


def _json(document: object) -> str:
    return json.dumps(document, indent=1, default=str) + "\n"


def _lines(documents: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in documents)  # type: ignore[attr-defined]


def about(docker: Docker) -> str:
    """Describe this program and Docker's."""
    versions = listings.read(docker.ask(["version", "--format", "{{json .}}"], listings.TIMEOUT))
    engine = {
        end: {
            name: versions.get(end, {}).get(name) for name in ("Version", "ApiVersion", "Os", "Arch", "KernelVersion")
        }
        for end in ("Client", "Server")
    }
    return _json(
        {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "linkwire": {"version": __version__, "commit": "" if COMMIT.startswith("$") else COMMIT},
            "python": platform.python_version(),
            "docker": engine,
        }
    )


def nodes(docker: Docker) -> str:
    """Describe the Swarm's nodes."""
    return _json([_node(each) for each in listings.nodes(docker)])


def _node(raw: Mapping[str, Any]) -> dict[str, Any]:
    spec, said = raw.get("Spec") or {}, raw.get("Description") or {}
    labels = spec.get("Labels") or {}
    return {
        "id": raw.get("ID"),
        "hostname": said.get("Hostname"),
        "role": spec.get("Role"),
        "availability": spec.get("Availability"),
        "status": raw.get("Status"),
        "manager": raw.get("ManagerStatus"),
        "platform": said.get("Platform"),
        "engine": (said.get("Engine") or {}).get("EngineVersion"),
        "labels": {name: text for name, text in labels.items() if name.startswith("linkwire.")},
    }


def services(docker: Docker) -> str:
    """Describe Linkwire's own services."""
    found = installation.deployed(docker)
    return _json({name: _service(each, found.mounts(name)) for name, each in found.services.items()})


def _service(raw: Mapping[str, Any], mounts: frozenset[str]) -> dict[str, Any]:
    spec = raw.get("Spec") or {}
    task = spec.get("TaskTemplate") or {}
    container = task.get("ContainerSpec") or {}
    return {
        "id": raw.get("ID"),
        "version": raw.get("Version"),
        "created": raw.get("CreatedAt"),
        "updated": raw.get("UpdatedAt"),
        "update": raw.get("UpdateStatus"),
        **{name: spec.get(name) for name in _SPEC},
        **{name: container.get(name) for name in _CONTAINER},
        "options": [text for text in container.get("Env") or [] if str(text).startswith(_OPTION)],
        "resources": task.get("Resources"),
        "placement": task.get("Placement"),
        "secrets_and_configs": sorted(mounts),
    }


def tasks(docker: Docker) -> str:
    """Describe the tasks of Linkwire's own services, those that ended too."""
    names = [f"{STACK}_{name}" for name in installation.deployed(docker).services]
    found = listings.tasks(docker, *names) if names else []
    fields = ("ID", "ServiceID", "NodeID", "Slot", "DesiredState", "CreatedAt")
    said = ("State", "Message", "Err", "Timestamp")
    return _json(
        [
            {name: each.get(name) for name in fields}
            | {"Image": ((each.get("Spec") or {}).get("ContainerSpec") or {}).get("Image")}
            | {name: (each.get("Status") or {}).get(name) for name in said}
            for each in found
        ]
    )


def certificates(docker: Docker) -> str:
    """List the secrets and configs of Linkwire by name, with their expiry; nobody can read their contents."""
    stored, problems = renew.check(docker)
    return _json({"stored": [asdict(each) for each in stored], "problems": problems})


def links(docker: Docker) -> str:
    """Give the state of all links, as `docker linkwire ps --format json` has it."""
    return _json(link_states.ask(docker, None).raw)


def records(docker: Docker) -> str:
    """List the records in etcd; of those that hold anything sealed the key alone."""
    return _lines(link_states.documents(docker, "records", TIMEOUT))


def events(docker: Docker) -> str:
    """Give the audit log."""
    return docker.ask(["exec", link_states.container(docker), "linkwire-agent", "events"], TIMEOUT)


def log(docker: Docker, since: float) -> str:
    """Give the newest lines of the logs of all nodes, and at the end what could not be read."""
    reader, backlog = Reader(docker, Choice()), Backlog(LINES)
    for line in reader.lines(["--since", f"{since:.0f}"], follow=False):
        if line is not None:
            backlog.add(line)
    lines = backlog.take()
    notes = [*([f"the oldest {backlog.dropped} lines are left out"] if backlog.dropped else []), *reader.problems]
    return "".join(f"{log_lines.document(line)}\n" for line in lines) + _lines({"note": note} for note in notes)


def gathered(docker: Docker, since: float) -> Iterator[tuple[str, str, str | None]]:
    """Yield the name, the text and the problem of each part.

    Args:
        docker: the endpoint.
        since: of the logs, in seconds since 1970.
    """
    parts: dict[str, Part] = {
        "about.json": about,
        "nodes.json": nodes,
        "services.json": services,
        "tasks.json": tasks,
        "certificates.json": certificates,
        "links.json": links,
        "records.jsonl": records,
        "events.jsonl": events,
        "logs.jsonl": lambda docker: log(docker, since),
    }
    for name, part in parts.items():
        try:
            yield name, part(docker), None
        except DockerError as error:
            yield name, "", str(error)
