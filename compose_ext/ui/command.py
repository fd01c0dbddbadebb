"""`docker linkwire ui`: serves the page until it is interrupted."""

import click

from compose_ext.diagnostics import UsageError
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Command, pass_docker
from compose_ext.ui import source

_PORTS = 65_535


@click.command(
    "ui",
    cls=Command,
    usage="docker linkwire ui [OPTIONS]",
    examples="""
        docker linkwire ui
        docker linkwire ui --port 8080
    """,
)
@click.option("--port", metavar="PORT", default="0", help="Port of 127.0.0.1 (default: a free one)")
@pass_docker
def ui_command(docker: Docker, port: str) -> None:
    """Show links, services and nodes on a web page, live and read-only.

    Prints the page's address and serves it on 127.0.0.1 until it is interrupted. The address has a token: keep it to
    yourself. The page asks the Linkwire agent on the Docker endpoint, as `docker linkwire ps` does.
    """
    if not (port.isdecimal() and int(port) <= _PORTS):
        raise UsageError(f"--port takes a number from 0 to {_PORTS}, not {port!r}")
    from compose_ext.ui import server  # noqa: PLC0415 - the server's libraries take a third of a second

    readings = source.Source(lambda: source.links(docker), lambda: source.audit_log(docker))
    with server.listener(int(port)) as opened:
        readings.warm()
        bound, secret = opened.getsockname()[1], server.token()
        print(f"http://{server.LOOPBACK}:{bound}/{secret}/", flush=True)
        server.serve(server.application(readings, bound, secret), opened)
