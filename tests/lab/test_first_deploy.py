"""The first deploy of an nginx that names what is behind it: no gate, and its names are there when it reads its file.

nginx asks for the names of its upstreams once, as it starts, and ends where there is no answer. The stack is deployed
LINKWIRE_FIRST_DEPLOYS times (default 1).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tests.lab import process, programs
from tests.lab.deployment import Deployment

DEPLOYS = int(os.environ.get("LINKWIRE_FIRST_DEPLOYS") or 1)
BEHIND = ("accounts", "ledger", "rates")
FILE = (
    "pid /tmp/nginx.pid; error_log stderr; events {} "
    "http { access_log off; server { listen 8080; "
    + " ".join(f"location /{name} {{ proxy_pass http://{name}/; }}" for name in BEHIND)
    + " } }"
)
ENDED = ("failed", "rejected", "complete", "shutdown")


def bank(image: str) -> str:
    """Its front names three services; tries again at once, as Swarm does, but for no other reason is anybody slow."""
    services: dict[str, Any] = {
        name: programs.service(image, "listen", name, "--tcp", "80", stop_grace_period="1s") for name in BEHIND
    }
    services["front"] = {
        "image": image,
        "command": ["sh", "-c", f"echo '{FILE}' >/tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'"],
        "links": list(BEHIND),
        "x-wireguard": {"gate": False},
        "stop_grace_period": "1s",
    }
    return programs.stack(services)


def test_nginx_never_ends_for_missing_link_name(stacks: Deployment, figure: Callable[[str], None]) -> None:
    took: list[float] = []
    ended: list[str] = []
    for _ in range(DEPLOYS):
        began = time.monotonic()
        stacks.deploy("bank", bank(stacks.images.demo))
        process.wait_for("every page", lambda: all(pages(stacks)), seconds=90, every=0.3)
        took.append(time.monotonic() - began)
        front = stacks.lab.manager.get("/services/bank_front")["ID"]
        tasks = [task["Status"] for task in stacks.lab.manager.get("/tasks") if task["ServiceID"] == front]
        ended += [status.get("Err", "ended") for status in tasks if status["State"] in ENDED]
        stacks.remove("bank")
    shown = ", ".join(f"{seconds:.0f}" for seconds in took)
    figure(f"nginx, {DEPLOYS} first deploys without the gate: {len(ended)} ended; every page after {shown} s")
    assert not ended


def pages(stacks: Deployment) -> list[bool]:
    """Whether each page behind the front is served; one False where there is no front."""
    fronts = stacks.tasks("bank_front")
    if not fronts:
        return [False]
    node, container = fronts[0]
    get = ["exec", container, "curl", "-s", "-f", "-m", "2", "-o", "/dev/null"]
    return [node.docker(*get, f"http://127.0.0.1:8080/{name}", check=False).returncode == 0 for name in BEHIND]
