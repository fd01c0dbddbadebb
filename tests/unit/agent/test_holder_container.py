"""The container that a process is in, as its mounts tell (proc_pid_mountinfo(5))."""

from __future__ import annotations

import pytest

from agent.containers.holder_container import own_container

ID = "4f" * 32
LINE = "812 790 8:1 {root} {target} rw,relatime - ext4 /dev/sda1 rw"


@pytest.mark.parametrize("root", ["/var/lib/docker", "/mnt/docker", ""])
def test_own_container_is_that_of_its_hosts_file(root: str) -> None:
    hosts = LINE.format(root=f"{root}/containers/{ID}/hosts", target="/etc/hosts")
    assert own_container(f"{LINE.format(root='/', target='/')}\n{hosts}") == ID


@pytest.mark.parametrize("root", ["/etc/hosts", "/hosts", f"/elsewhere/{ID}/hosts"])
def test_outside_docker_there_is_none(root: str) -> None:
    assert own_container(LINE.format(root=root, target="/etc/hosts")) is None
    assert own_container(LINE.format(root=f"/containers/{ID}/hosts", target="/etc/hostname")) is None
