"""One tenant's worst labels delay no other tenant: seconds until a fresh stack carries, beside them and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from mesh.model.labels.link_labels import MAX_ALL_RANGES, MAX_LABELS, MAX_RANGES
from tests.lab import images, process
from tests.lab.deployment import Deployment
from tests.support.attacks import Attempts
from tests.support.effort import LONG, in_long_form

ROUNDS = 3 if LONG else 1
STACK = """
version: "3.8"
x-wireguard: {{}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
  client:
    image: {image}
    command: [sh, -c, "until curl -s -m 1 -o /dev/null http://web/; do sleep 0.05; done; echo through; sleep 86400"]
    links: [web]
    stop_grace_period: 0s
"""
NAMESPACE = "com.docker.stack.namespace=evil"
RANGES = ",".join(f"{2 * n + 1001}" for n in range(MAX_RANGES))
LINKED, LONELY, CONSUMERS = MAX_ALL_RANGES // MAX_RANGES, 4, 6
# Of the image: the limits of labels, and those of a transaction. Its code is compiled ahead.
UNLIMITED = (
    "RUN cd /opt/linkwire/lib/python3*/site-packages/mesh && "
    "sed -i -E 's/^(MAX_LABELS|MAX_RANGES|MAX_ALL_RANGES|MAX_BYTES) = .*/\\1 = 10**9/' "
    "model/labels/link_labels.py store/packing.py && "
    "sed -i 's/its > keyspace.limit(op.key))/its < 0)/' store/packing.py && "
    "python3 -m compileall -q -f --invalidation-mode unchecked-hash model/labels store"
)
FAILED = "controller pass failed, retrying"


def labels(*links: str, ports: str) -> list[str]:
    told = {"linkwire.links": ",".join(links), **{f"linkwire.link.{link}.ports": ports for link in links}}
    return [word for label, value in told.items() for word in ("--label", f"{label}={value}")]


@contextmanager
def hostile(stacks: Deployment) -> Iterator[None]:
    """Services with as much in their labels as is read, and one whose labels are more than that."""
    docker, made = stacks.lab.manager.docker, ["evil_db"]
    create = ["service", "create", "--quiet", "--detach", "--label", NAMESPACE]
    sleeper = [stacks.images.demo, "sleep", "86400"]
    docker(*create, "--name", "evil_db", *sleeper)
    for n in range(CONSUMERS):
        made.append(f"evil_c{n}")
        docker(*create, "--name", made[-1], *labels("evil_db", ports=RANGES), *sleeper)
    for n in range(LONELY):
        made.append(f"evil_x{n}")
        many = [f"evil_x{n}y{link}" for link in range(LINKED)]
        docker(*create, "--name", made[-1], "--replicas=0", *labels(*many, ports=RANGES), *sleeper)
    too_much = ",".join(str(n) for n in range(1, 2 * MAX_LABELS // 26, 2))
    made.append("evil_too_much")
    docker(*create, "--name", made[-1], "--replicas=0", *labels("a", "b", "c", "d", ports=too_much), *sleeper)
    try:
        yield
    finally:
        docker("service", "rm", *made)


@contextmanager
def too_large(stacks: Deployment) -> Iterator[None]:
    """One service of no task, with links to four others and 10,900 port ranges in each: 2 MB in its record."""
    docker, made = stacks.lab.manager.docker, []
    create = ["service", "create", "--quiet", "--detach", "--label", NAMESPACE]
    sleeper = [stacks.images.demo, "sleep", "86400"]
    providers = [f"evil_p{n}" for n in range(4)]
    for name in providers:
        docker(*create, "--name", name, "--replicas=0", *sleeper)
        made.append(name)
    odd = ",".join(str(port) for port in range(1, 21_800, 2))
    docker(*create, "--name", "evil_large", "--replicas=0", *labels(*providers, ports=odd), *sleeper)
    made.append("evil_large")
    try:
        yield
    finally:
        docker("service", "rm", *made)


def seconds_until_through(stacks: Deployment, number: int) -> float:
    """Deploy a fresh stack, wait until its link carries, remove it."""
    stack = f"fresh{number}"
    began = time.monotonic()
    stacks.deploy(stack, STACK.format(image=stacks.images.demo))
    process.wait_for("the fresh stack's link", lambda: carries(stacks, stack), seconds=120, every=0.1)
    took = time.monotonic() - began
    stacks.remove(stack)
    return took


def carries(stacks: Deployment, stack: str) -> bool:
    """Tell whether a stack's link has carried a page."""
    done = stacks.lab.manager.docker("service", "logs", "--raw", f"{stack}_client", check=False)
    return "through" in done.stdout


def test_worst_labels_delay_no_other_stack(stacks: Deployment, figure: Callable[[str], None]) -> None:
    seconds_until_through(stacks, 0)  # the first one of all brings images to the nodes
    without = [seconds_until_through(stacks, n) for n in range(1, 1 + ROUNDS)]
    with hostile(stacks):
        beside = [seconds_until_through(stacks, n) for n in range(1 + ROUNDS, 1 + 2 * ROUNDS)]
    alone, crowded = statistics.median(without), statistics.median(beside)
    figure(
        f"a fresh link carries after {alone:.1f} s, beside another tenant's worst labels after {crowded:.1f} s: "
        f"{crowded / alone:.2f} times as long"
    )
    assert max(beside) < 60, "it comes through at all"


@in_long_form
def test_without_limits_they_stop_every_other_stack(stacks: Deployment, attempt: Attempts) -> None:
    """The defence is off in a controller that reads any list of ports, and packs records of any size."""
    tried = attempt("may create services: one tenant's labels keep every other's stack from being wired")
    unlimited = images.variant(stacks.lab, "unlimited", UNLIMITED)
    with ExitStack() as off:
        stacks.change("linkwire_controller", "update", "--no-resolve-image", "--image", unlimited)
        off.callback(stacks.change, "linkwire_controller", "rollback")
        with too_large(stacks):
            stacks.deploy("fresh", STACK.format(image=stacks.images.demo))
            process.wait_for(
                "the controller to fail", lambda: stacks.logged("linkwire_controller").count(FAILED) > 3, seconds=120
            )
            tried.works(not carries(stacks, "fresh"))
            off.close()
            process.wait_for("the fresh stack's link", lambda: carries(stacks, "fresh"), seconds=120)
            tried.stopped()
