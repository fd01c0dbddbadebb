"""The seeds of an installation: kept while both are there, made anew together where one is gone."""

from pathlib import Path

import pytest

from compose_ext.secrets import seeds
from compose_ext.secrets.docker_secrets import DockerSecrets
from tests.unit.compose_ext.test_own_etcd import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ensure(world: World, *in_use: str) -> seeds.Seeds:
    return seeds.ensure(DockerSecrets(world.docker), "cluster", frozenset(in_use), world.said.append)


def names(world: World) -> set[str]:
    return {secret.name for secret in DockerSecrets(world.docker).everything()}


def test_an_installation_keeps_its_id(world: World) -> None:
    first = ensure(world)
    assert (ensure(world).mounted(), ensure(world).installation) == (first.mounted(), first.installation)
    assert world.said == []
    renewed = seeds.new_signing(DockerSecrets(world.docker), first.installation)
    assert seeds.installation_of(renewed) == first.installation
    assert renewed.labels[seeds.VERIFY_LABEL] != first.signing.labels[seeds.VERIFY_LABEL]


@pytest.mark.parametrize(
    ("gone", "said"), [(seeds.SIGNING, "the signing seed is gone"), (seeds.LINK, "the seed of the link keys is gone")]
)
def test_one_missing_seed_renews_both(world: World, gone: str, said: str) -> None:
    first = ensure(world)
    (world.folder / "secret" / f"linkwire_{gone}_1").unlink()
    second = ensure(world)
    assert said in world.said[0]
    assert second.installation != first.installation
    assert names(world) == {second.signing.name, second.link.name, second.verify_keys.name}
    assert ensure(world).mounted() == second.mounted()


def test_seeds_from_before_ids_are_one_installation(world: World) -> None:
    secrets = DockerSecrets(world.docker)
    signing = seeds.new_signing(secrets)
    public = {seeds.VERIFY_LABEL: signing.labels[seeds.VERIFY_LABEL]}
    old = secrets.make("secret", seeds.SIGNING, 1 + signing.number, b"x", public)
    secrets.remove(signing)
    link = secrets.make("secret", seeds.LINK, 1, b"x")
    one = ensure(world)
    assert (one.signing.name, one.link.name) == (old.name, link.name)
    assert one.installation == signing.labels[seeds.INSTALLATION_LABEL]


def test_new_link_seed_belongs_to_the_installation(world: World) -> None:
    first = ensure(world)
    secrets = DockerSecrets(world.docker)
    made = seeds.new_link(secrets, first)
    assert made.name != first.link.name
    assert seeds.new_link(secrets, first).name == made.name, "a renewal that was broken off goes on with it"
    assert ensure(world, first.signing.name, first.link.name).link.name == first.link.name
    second = ensure(world, first.signing.name, made.name)
    assert (second.link.name, second.installation) == (made.name, first.installation)
    assert seeds.new_link(secrets, second).number > made.number
