"""What secrets a running Linkwire has, and all that it emits: to see that none of the first is in the second."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.containers.holder_container import LABEL, ROLE
from tests.lab.deployment import STACK, Deployment
from tests.lab.node import Node

SHORTEST = 24
"""Bytes. What is shorter is no key."""
# Run in the containers of Linkwire: their files that are nobody else's business, and every device's keys.
READ = """
import base64, glob, json, socket
found = {}
for path in glob.glob("/run/secrets/**", recursive=True) + glob.glob("/var/lib/linkwire/*.key"):
    try:
        found[path] = base64.b64encode(open(path, "rb").read()).decode()
    except (IsADirectoryError, FileNotFoundError):
        pass
for path in glob.glob("/run/wireguard/*.sock"):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
        one.sendall(b"get=1\\n\\n")
        one.shutdown(socket.SHUT_WR)
        told = one.makefile("rb").read()
    keys = [line for line in told.split(b"\\n") if line.startswith((b"private_key=", b"preshared_key="))]
    found[path] = base64.b64encode(b"\\n".join(keys)).decode()
print(json.dumps(found))
"""


def secrets(stacks: Deployment) -> dict[bytes, str]:
    """Every secret value that Linkwire's containers hold, and where: keys of tasks, of nodes, of the mesh, of TLS."""
    found: dict[bytes, str] = {}
    for node, container in own(stacks):
        done = node.docker("exec", container, "sh", "-c", f"exec $(command -v python3) -c '{READ}'", check=False)
        for path, content in json.loads(done.stdout or "{}").items():
            found |= dict.fromkeys(values(base64.b64decode(content)), f"{node.name}: {path}")
    return found


def own(stacks: Deployment) -> list[tuple[Node, str]]:
    """The running containers of Linkwire itself."""
    labels = f"label=com.docker.stack.namespace={STACK}", f"label={LABEL}={ROLE}"
    return [
        (node, container)
        for node in stacks.lab.nodes
        for label in labels
        for container in node.docker("ps", "--quiet", "--filter", label).stdout.split()
    ]


def values(content: bytes) -> set[bytes]:
    """The secret values in a file: keys as numbers, and the lines of what is PEM; nothing of what is public."""
    text = content.decode("ascii", "replace")
    private = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)
    if "-----BEGIN" in text:  # the first line of a PEM text is the same for all keys of a kind, but for its end
        return {line[-SHORTEST:].encode() for block in private for line in block.split() if len(line) >= SHORTEST}
    numbers = {bytes.fromhex(found) for found in re.findall(r"\b[0-9a-f]{64}\b", text)}
    if not numbers and len(content) >= 32 and not text.isprintable():
        numbers = {content[-32:]}  # a line that says what it is, and a key
    return {number for number in numbers if any(number)}


def forms(secret: bytes) -> set[bytes]:
    """How a value may be written: as it is, in hexadecimal, in base64 wherever it begins."""
    written = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):  # what stands before it in the same base64 text shifts it
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            written.add(encode(bytes(before) + secret)[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6])
    return written


def emitted(stacks: Deployment) -> Iterator[tuple[str, bytes]]:
    """All that Linkwire says or leaves where others than itself can read it: what it is, and its bytes."""
    lab, manager = stacks.lab, stacks.lab.manager
    for node in lab.nodes:
        yield f"{node.name}: the log of dockerd", node.log.read_bytes()
        containers = node.docker("ps", "--all", "--quiet").stdout.split()
        for container in containers:
            said = node.docker("logs", container)
            yield f"{node.name}: docker logs {container}", (said.stdout + said.stderr).encode()
        yield f"{node.name}: docker inspect", node.docker("inspect", *containers).stdout.encode()
        metrics = node.run(["curl", "--silent", "--show-error", "http://127.0.0.1:9586/metrics"])
        yield f"{node.name}: metrics", metrics.stdout.encode()
        yield f"{node.name}: the gate", node.run(["sh", "-c", "cat /run/docker/linkwire/*/* || :"]).stdout.encode()
    for kind in ("service", "config", "secret", "network", "volume", "node"):
        ids = manager.docker(kind, "ls", "--quiet").stdout.split()
        yield f"docker {kind} inspect", manager.docker(kind, "inspect", *ids).stdout.encode() if ids else b""
    for service in manager.docker("service", "ls", "--quiet").stdout.split():
        yield "docker service ps", manager.docker("service", "ps", "--no-trunc", service).stdout.encode()
    for arguments in (("ps",), ("ps", "--pairs"), ("ps", "--format", "json")):
        yield f"docker linkwire {' '.join(arguments)}", stacks.linkwire(*arguments).encode()
    for path in sorted((lab.layout.root / "etcd").rglob("*")):
        if path.is_file():
            yield f"etcd's {path.name}", path.read_bytes()
    yield from arguments_and_environments()


def arguments_and_environments() -> Iterator[tuple[str, bytes]]:
    """Of every process of the machine, which the nodes share."""
    for process in Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                yield f"{what} of a process", (process / what).read_bytes()
            except OSError:  # it has ended
                continue


def seen(hidden: Iterable[tuple[bytes, str]], shown: Iterable[tuple[str, bytes]]) -> list[str]:
    """Whose secret is shown where; never the secret."""
    written = [(form, where) for secret, where in hidden for form in forms(secret)]
    return sorted({f"that of {of} in {place}" for place, data in shown for form, of in written if form in data})
