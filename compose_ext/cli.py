"""The command line of `docker linkwire`: its commands, and Docker's words around them.

A command's module is imported when the command is run: Docker and a shell's completion wait for no other.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from compose_ext import COMMIT, __version__
from compose_ext.completion import REQUESTS, complete
from compose_ext.diagnostics import AbsentError, BadFilesError, DockerError, UsageError
from compose_ext.docker_cli import choose
from compose_ext.pflag import CONTEXT, GLOBAL, Command, Group, docker_flags, form
from compose_ext.terminal import complain, say, show_json

DOCKER_FAILED = 1
"""The input was good; Docker, the Swarm, or the agent asked through it, was not."""
BAD_INPUT = 2
"""The command line or the files are wrong, or name what the Swarm does not have; nothing was done."""

_NAME = "linkwire"
_MODULES = {
    "check": "compose_ext.commands.check",
    "render": "compose_ext.commands.deploy",
    "deploy": "compose_ext.commands.deploy",
    "ps": "compose_ext.commands.ps.ps",
    "install": "compose_ext.commands.install",
    "upgrade": "compose_ext.commands.install",
    "renew": "compose_ext.commands.install",
    "uninstall": "compose_ext.commands.install",
    "gate": "compose_ext.commands.gate",
    "node": "compose_ext.commands.node",
    "rotate": "compose_ext.commands.rotate",
    "backup": "compose_ext.commands.backup.backup",
    "restore": "compose_ext.commands.backup.restore",
    "events": "compose_ext.observe.diagnosis.events",
    "version": "compose_ext.cli",
    "test": "compose_ext.observe.test",
    "status": "compose_ext.observe.status",
    "graph": "compose_ext.observe.traffic.graph",
    "logs": "compose_ext.observe.diagnosis.logs",
    "ui": "compose_ext.ui.command",
    "explain": "compose_ext.observe.diagnosis.explain",
    "top": "compose_ext.observe.traffic.top",
    "flows": "compose_ext.observe.traffic.flows",
    "support-bundle": "compose_ext.observe.diagnosis.support_bundle",
}
"""Where each command is: `NAME_command` in that module."""


class _Linkwire(Group):
    """The commands, each imported when it is needed."""

    summaries = {  # noqa: RUF012 - click's classes are not dataclasses
        "check": "Report everything that is wrong with compose files, or in the Swarm",
        "render": "Print what deploy adds to the compose files",
        "deploy": "Deploy a stack, or update it, with its links",
        "status": "Show Linkwire and all links on one screen, and what is wrong, worst first",
        "ps": "List links with their tasks, and whether they are connected",
        "install": "Install Linkwire on a Swarm, or update it, with its keys",
        "upgrade": "Upgrade Linkwire, one node at a time, and go back where a node is not good",
        "renew": "Renew Linkwire's certificates, signing key or link seed, or show when they expire",
        "uninstall": "Remove Linkwire from a Swarm",
        "gate": "Put the start gate into nodes' Docker, take it out, or show its state",
        "node": "List nodes, approve their keys, revoke a node, and encrypt overlay packets between nodes",
        "rotate": "Give link keys new secrets, or nodes new keys, now",
        "backup": "Write all that is signed in etcd into one file, sealed to a key that you keep",
        "restore": "Put back from a backup what etcd lost",
        "version": "Print the version and what it was built from",
        "events": "Print who linked what to what, key and node events, and what was refused",
        "test": "Try between all nodes what links promise, with a stack that is removed again",
        "graph": "Draw services and links, coloured by their measured state",
        "logs": "Print the logs of controllers, agents and etcd in the order of time",
        "ui": "Show links, services and nodes on a web page, live and read-only",
        "explain": "Say why a link works or does not, up to the first thing wrong",
        "top": "Print how much passes over each link, now",
        "flows": "Print who opens connections over links, and what is refused, now",
        "support-bundle": "Write all that helps to find out what is wrong into one file, without keys",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names, in the order of the help text."""
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import a command; None where there is none of that name."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(import_module(_MODULES[cmd_name]), f"{cmd_name.replace('-', '_')}_command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with a word, without importing them; else the flags."""
        named = [(name, text) for name, text in self.summaries.items() if name.startswith(incomplete)]
        return [CompletionItem(name, help=text) for name, text in named] or Command.shell_complete(
            self, ctx, incomplete
        )


linkwire = _Linkwire(
    _NAME,
    usage="docker linkwire COMMAND",
    help="WireGuard between the services that a compose file links",
    examples="""
        docker linkwire install --image registry.example/linkwire:1
        docker linkwire check -c shop.yml
        docker linkwire deploy -c shop.yml shop
        docker linkwire ps shop
    """,
    epilog="""
        Docker's own flags (-H, --context, --tls..., --config) stand before or after the command.
        LINKWIRE_DOCKER in the environment names the docker program to use.
        Run 'docker linkwire COMMAND --help' for more about a command.
    """,
)


class _Docker(Group):
    """Docker's command line around ours: a plugin is given all of it, `-H HOST linkwire ps` or `help linkwire`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return Docker's global flags; `-c` is a context here."""
        return [*click.Command.get_params(self, ctx), *(CONTEXT if one.name == "context" else one for one in GLOBAL)]

    def resolve_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        args: list[str],
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take our own name off, where it stands."""
        return _NAME, linkwire, args[args[:1] == [_NAME] :]

    def get_help(self, ctx: click.Context) -> str:
        """Return our help text: Docker's is Docker's."""
        return linkwire.get_help(click.Context(linkwire, parent=ctx, info_name=_NAME))


_docker = _Docker("docker")


def main(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    try:
        return _run(arguments)
    finally:
        say.end()


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in REQUESTS:
        sys.stdout.write(complete(linkwire, arguments[0], arguments[1:]))
        return 0
    context = None
    try:
        context = _docker.make_context("docker", list(arguments))
        with context:
            return int(_docker.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (UsageError, click.UsageError) as error:
        text = error.format_message() if isinstance(error, click.UsageError) else str(error)
        more = "" if isinstance(error, AbsentError) else "\nSee 'docker linkwire --help'."
        complain(f"docker linkwire: {text}{more}")
        return BAD_INPUT
    except BadFilesError:
        return BAD_INPUT
    except DockerError as error:
        complain(f"docker linkwire: {_explained(error, context)}")
        return DOCKER_FAILED


def _explained(error: DockerError, context: click.Context | None) -> DockerError:
    from compose_ext.swarm import listings  # noqa: PLC0415 - where all is well it is not needed

    return listings.explained(choose(docker_flags(context)), error) if context else error


@click.command(
    "version",
    cls=Command,
    usage="docker linkwire version [OPTIONS]",
    examples="""
        docker linkwire version
        docker linkwire version --format json
    """,
)
@form("text", "json")
def version_command(form: str) -> None:
    """Print the version, the commit it was built from, and the SHA-256 of the plugin's file."""
    commit = "" if COMMIT.startswith("$") else COMMIT
    digest = _own_digest(Path(sys.argv[0]))
    if form == "json":
        show_json({"version": __version__, "commit": commit, "sha256": digest})
        return
    print(f"Linkwire {__version__}")
    if commit:
        print(f"Commit:   {commit}")
    if digest:
        print(f"SHA-256:  {digest}")


def _own_digest(file: Path) -> str:
    """The digest of the file of `make plugin`, as a release's SHA256SUMS has it; an installed package has none."""
    import hashlib  # noqa: PLC0415 - no other command needs these
    import zipfile  # noqa: PLC0415

    return hashlib.sha256(file.read_bytes()).hexdigest() if zipfile.is_zipfile(file) else ""
