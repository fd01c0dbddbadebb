"""`docker linkwire explain`: one link, or node encryption between two nodes, walked up to the first thing wrong."""

from collections.abc import Iterator, Mapping

import click

from compose_ext.completion import services
from compose_ext.diagnostics import UsageError
from compose_ext.docker_cli import Docker
from compose_ext.health import node_encryption
from compose_ext.pflag import Command, form, pass_docker
from compose_ext.swarm import installation
from compose_ext.terminal import line, say, show_finding, show_json
from compose_ext.walks import between_nodes, link_facts
from compose_ext.walks.link_facts import Side, Swarm
from compose_ext.walks.walk import walk
from mesh.diagnosis.steps import NODE_STAGES, STAGES, Step, worst
from mesh.model.labels.ports import PortRange

WRONG = 1
_WIDTH = max(map(len, (*STAGES, *NODE_STAGES)))
_MARKS = {"ok": "ok", "warning": "warning", "wrong": "WRONG", "skipped": "-"}


def tell(step: Step) -> None:
    """Print one step."""
    text = f"{step.stage.ljust(_WIDTH)}  {_MARKS[step.outcome].ljust(7)}  {step.text}"
    since = f" (for {step.since})" if step.since and step.outcome != "ok" else ""
    show_finding(line(f"{text}{since}"), "red" if step.outcome == "wrong" else "")


def conclude(good: str, found: Step | None) -> None:
    """Print what all of it comes to; `good` is said where nothing is wrong."""
    if found is None:
        print(f"ok: {good}")
        return
    print()
    for name, text in (("what", found.text), ("where", found.place), ("since", found.since), ("mend", found.command)):
        if text:
            print(line(f"{name}:".ljust(8) + (f"{text} ago" if name == "since" else text)))


def sides(docker: Docker, swarm: Swarm, consumer: str, provider: str) -> tuple[Side, Side, str]:
    """Find what was named, and the port. Raises UsageError, DockerError."""
    one = link_facts.side(docker, swarm, consumer)
    name, colon, port = provider.rpartition(":")
    if not colon:
        name, port = provider, ""
    else:
        try:
            parsed = PortRange.parse(port)
        except ValueError as error:
            raise UsageError(f"{provider!r}: {error}") from None
        if parsed.first != parsed.last:
            raise UsageError(f"{provider!r}: name one port")
        port = str(parsed)
    links = swarm.services[one.service].labels.links
    aliased = [link.provider for link in links if name in link.aliases]
    if name not in swarm.services and aliased:
        return one, Side(aliased[0]), port
    if any(link.provider == name for link in links):  # the walk says that there is no such service
        return one, Side(name), port
    return one, link_facts.side(docker, swarm, name), port


def show_walk(walked: Iterator[Step], form: str, names: Mapping[str, str], good: str) -> int:
    """Show the steps of a walk as they are found, and what they come to; returns the exit code.

    Args:
        walked: its steps.
        form: `text` or `json`.
        names: both ends, by the fields that they have in JSON.
        good: said where nothing is wrong.
    """
    steps: list[Step] = []
    for step in walked:
        steps.append(step)
        if form == "text":
            tell(step)
    found = worst(steps)
    if form == "json":
        told = {"steps": [step.told() for step in steps], "cause": found.told() if found is not None else None}
        show_json({"ok": found is None, **names, **told})
    else:
        say.end()
        conclude(good, found)
    return WRONG if found is not None else 0


@click.command(
    "explain",
    cls=Command,
    usage="docker linkwire explain CONSUMER PROVIDER[:PORT] | NODE NODE",
    examples="""
        docker linkwire explain shop_web shop_db
        docker linkwire explain shop_web shop_db:5432
        docker linkwire explain shop_web.2 shop_db --format json
        docker linkwire explain n1 n2
    """,
)
@form("text", "json")
@click.argument("consumer", metavar="CONSUMER", shell_complete=services)
@click.argument("provider", metavar="PROVIDER[:PORT]", shell_complete=services)
@pass_docker
def explain_command(docker: Docker, consumer: str, provider: str, form: str) -> int:
    """Explain why a link, or node encryption, works or not, up to the first thing wrong.

    CONSUMER and PROVIDER are services, tasks or containers; PROVIDER may be the link's name. It looks at labels,
    consent, records and keys, at the device and its peer on both nodes, tries small and large packets, UDP between
    the nodes, a connection from inside the consumer, and the link's names. Between two nodes, by name or id, it walks
    along node encryption. Exits with 1 if anything is wrong.
    """
    swarm = link_facts.read(docker)
    nodes = between_nodes.named(swarm, consumer, provider)
    if nodes is not None:
        names = {"one": nodes[0].name, "other": nodes[1].name}
        wanted = node_encryption.wanted(installation.deployed(docker))
        steps = between_nodes.walk(docker, between_nodes.read(docker, swarm, nodes, wanted))
        good = f"overlay packets between {nodes[0].name} and {nodes[1].name} are encrypted"
        return show_walk(steps, form, names, good)
    one, other, port = sides(docker, swarm, consumer, provider)
    tasks = link_facts.tasks_of(docker, swarm, (one.service, other.service))
    facts = link_facts.facts(swarm, tasks, one, other)
    names = {"consumer": facts.consumer, "provider": facts.provider}
    return show_walk(walk(docker, facts, port), form, names, f"{facts.consumer} reaches {facts.provider}")
