"""Which secrets are an installation's own: by the ids that its services mount, or that are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.install.install import _tell_strangers
from compose_ext.secrets import etcd_certificates, seeds
from compose_ext.secrets.docker_secrets import DockerSecrets
from compose_ext.swarm.installation import NOTHING_DEPLOYED, Deployed
from tests.unit.compose_ext.test_own_etcd import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ids(world: World) -> dict[str, str]:
    """Name -> id of every secret and config."""
    found = [
        json.loads(file.read_text()) for sort in ("secret", "config") for file in (world.folder / sort).iterdir()
    ]
    return {one["Spec"]["Name"]: one["ID"] for one in found}


def mounting(world: World, *names: str, **replaced: str) -> Deployed:
    """A stack of which the controllers mount these."""
    found = {name: replaced.get(name, ids(world)[name]) for name in names}
    spec = {"Secrets": [{"SecretName": name, "SecretID": identity} for name, identity in found.items()]}
    return Deployed({"controller": {"Spec": {"TaskTemplate": {"ContainerSpec": spec}}}})


def installed(world: World) -> tuple[str, ...]:
    """An installation of an earlier version, which recorded nothing; the names that its services mount."""
    secrets = DockerSecrets(world.docker)
    made = seeds.ensure(secrets, "cluster", frozenset(), world.said.append)
    generation = etcd_certificates.make(secrets, "10.0.0.1")
    mounted = etcd_certificates.mounted(secrets, etcd_certificates.settled(generation.number))
    (world.folder / "made").unlink()
    return (*made.mounted().values(), *mounted.values())


def test_what_an_earlier_version_mounts_stays_its_own(world: World) -> None:
    before = mounting(world, *installed(world))
    secrets = DockerSecrets(world.docker, before)
    assert secrets.strangers == []
    assert [one.number for one in etcd_certificates.generations(secrets)] == [1]
    _tell_strangers(secrets, before, world.said.append)
    assert world.said == []
    secrets.record()
    assert DockerSecrets(world.docker).everything() == secrets.everything(), "from now on without the services too"


def test_unfinished_work_of_an_earlier_version_is_left(world: World) -> None:
    names = installed(world)
    etcd_certificates.make(DockerSecrets(world.docker, mounting(world, *names)), "10.0.0.1")
    (world.folder / "made").unlink()
    secrets = DockerSecrets(world.docker, mounting(world, *names))
    assert {one.number for one in secrets.strangers} == {2}
    assert [one.number for one in etcd_certificates.generations(secrets)] == [1]
    assert etcd_certificates.make(secrets, "10.0.0.1").number == 3, "its numbers are passed over"


def test_seeds_without_services_need_an_operators_word(world: World) -> None:
    installed(world)
    with pytest.raises(DockerError) as refusal:
        _tell_strangers(DockerSecrets(world.docker), NOTHING_DEPLOYED, world.said.append)
    said = str(refusal.value)
    assert "docker secret rm linkwire_etcd_agent_1" in said
    (world.folder / "made").write_text(said.partition("linkwire.made=")[2].partition(" ")[0])
    assert DockerSecrets(world.docker).strangers == [], "what it says takes them up"


def test_secret_replaced_under_its_name_is_noticed(world: World) -> None:
    names = installed(world)
    secrets = DockerSecrets(world.docker, mounting(world, *names))
    assert secrets.replaced(mounting(world, *names)) == []
    replaced = mounting(world, *names, linkwire_link_seed_1="another")
    assert secrets.replaced(replaced) == ["linkwire_link_seed_1"]
