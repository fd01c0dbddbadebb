"""The project's images, built where no network is and pulled by another node."""

from __future__ import annotations

import json
import time
import urllib.request

import pytest

from tests.lab import Lab, images


@pytest.fixture(scope="module")
def built(lab: Lab) -> images.Images:
    return images.build_all(lab, say=print)


def test_controller_and_agent_image_has_all_it_needs(lab: Lab, built: images.Images) -> None:
    imports = "import mesh, controller, agent, docker, nacl.public, pyroute2, structlog, yaml"
    programs = "linkwire-controller --help && linkwire-agent --help && wg --version && nft -v"
    script = f"python3 -c '{imports}' && {programs}"
    run = ("run", "--rm", "--network", "none", built.linkwire, "sh", "-ec", script)
    said = lab.node("n2").docker(*run).stdout  # pulled from the registry
    assert "linkwire-agent" in said
    assert "nftables" in said


def test_the_image_is_what_the_tree_has(lab: Lab, built: images.Images) -> None:
    source = images.PROJECT / "mesh" / "__init__.py"
    path = "/opt/linkwire/lib/python3.11/site-packages/mesh/__init__.py"
    inside = lab.manager.docker("run", "--rm", "--network", "none", built.linkwire, "cat", path).stdout
    assert inside == source.read_text()


def test_demo_image_has_the_example_programs(lab: Lab, built: images.Images) -> None:
    script = "nginx -v; redis-server --version; python3 -c 'import redis'; which curl busybox ip ping iperf3"
    said = lab.node("n3").docker("run", "--rm", "--network", "none", built.demo, "sh", "-ec", script)
    assert "nginx" in said.stderr
    assert said.stdout.startswith("Redis server")
    assert len(said.stdout.splitlines()) == 6


def test_the_registry_has_them_by_name(lab: Lab, built: images.Images) -> None:
    with urllib.request.urlopen(f"http://{lab.registry}/v2/_catalog", timeout=5) as answer:
        assert set(json.load(answer)["repositories"]) >= {"linkwire", "demo", "busybox"}
    assert built.busybox.startswith(f"{lab.registry}/")


def test_rebuilding_is_quick_and_gives_same_image(lab: Lab, built: images.Images) -> None:
    def build() -> tuple[str, float]:
        began = time.monotonic()
        images.build_image(lab)
        seconds = time.monotonic() - began
        return lab.manager.docker("image", "inspect", "--format", "{{.Id}}", built.linkwire).stdout, seconds

    wheels = images.wheels()
    source = images.context(wheels)
    first, _ = build()
    second, seconds = build()
    assert images.context(wheels) == source, "someone changed the source while this ran: run it again"
    assert second == first
    assert seconds < 15
