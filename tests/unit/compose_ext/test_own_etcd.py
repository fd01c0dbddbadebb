"""Certificates for an etcd of the user's own: what is wrong with a file is said, what is good becomes a secret."""

from __future__ import annotations

import datetime as dt
import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from compose_ext.diagnostics import UsageError
from compose_ext.docker_cli import Docker
from compose_ext.install.options import Options
from compose_ext.install.stack_template import Release
from compose_ext.secrets import external_etcd
from compose_ext.secrets.docker_secrets import DockerSecrets
from mesh.identity.ca import CertificateAuthority

AUTHORITY = CertificateAuthority("theirs")
# Keeps secrets and configs in files, as Docker does: what a secret holds it never tells.
DOCKER = """#!{python}
import base64, hashlib, json, pathlib, sys
made = pathlib.Path({folder!r}) / "made"
if sys.argv[1] == "info":
    print(json.dumps({{"Swarm": {{"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n1"}}}}))
elif sys.argv[1:3] == ["node", "ls"]:
    print("n1" if made.exists() else "")
elif sys.argv[1:3] == ["node", "inspect"]:
    print(json.dumps([{{"Spec": {{"Labels": {{"linkwire.made": made.read_text()}}}}}}]))
elif sys.argv[1:3] == ["node", "update"]:
    made.write_text(sys.argv[3].removeprefix("--label-add=linkwire.made="))
if sys.argv[1] not in ("secret", "config"):
    sys.exit()
kept = pathlib.Path({folder!r}) / sys.argv[1]
kept.mkdir(exist_ok=True)
what, words = sys.argv[2], sys.argv[3:]
if what == "ls":
    print("\\n".join(sorted(one.name for one in kept.iterdir())))
elif what == "create":
    labels = dict(word.removeprefix("--label=").split("=", 1) for word in words if word.startswith("--label="))
    data = sys.stdin.buffer.read()
    spec = {{"Name": words[-2], "Labels": labels}}
    if sys.argv[1] == "config":
        spec["Data"] = base64.b64encode(data).decode()
    found = hashlib.sha256(data).hexdigest()[:25]
    (kept / words[-2]).write_text(json.dumps({{"ID": found, "Spec": spec}}))
    print(found)
    (kept.parent / "given").open("ab").write(data)
elif what == "rm":
    next(one for one in kept.iterdir() if json.loads(one.read_text())["ID"] == words[0]).unlink()
elif what == "inspect":
    print(json.dumps([json.loads((kept / name).read_text()) for name in words]))
"""


class World:
    """A folder of files, and a docker program beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(DOCKER.format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.docker = Docker(str(program))
        self.said: list[str] = []
        self.put("ca", AUTHORITY.pem)
        self.put("controller", AUTHORITY.client("controller"))
        self.put("agent", AUTHORITY.client("agent"))

    def put(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def install(self, files: Mapping[str, str], in_use: frozenset[str] = frozenset()) -> external_etcd.ExternalEtcd:
        given = {name: str(self.folder / file) for name, file in files.items()}
        return external_etcd.ensure(DockerSecrets(self.docker), given, in_use, self.said.append)


GOOD = {"etcd_ca": "ca", "etcd_cert": "controller", "etcd_key": "controller"}
AGENTS = {"etcd_agent_cert": "agent", "etcd_agent_key": "agent"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_files_become_secrets_and_later_installs_reuse_them(world: World) -> None:
    first = world.install(GOOD | AGENTS)
    names = first.ca.name, first.controller.name, first.agent.name
    assert names == ("linkwire_own_etcd_ca_1", "linkwire_own_etcd_controller_1", "linkwire_own_etcd_agent_1")
    assert world.install(GOOD).mounted() == world.install({}).mounted() == first.mounted()
    assert world.said == []
    given = (world.folder / "given").read_bytes()
    assert given.count(b"BEGIN PRIVATE KEY") == 2, "each once"
    world.put("controller", AUTHORITY.client("controller"))
    assert world.install(GOOD).controller.name == "linkwire_own_etcd_controller_2"
    in_use = frozenset({"linkwire_own_etcd_controller_1"})
    assert world.install({}, in_use).controller.number == 1, "what is mounted, until new files are given"


def test_agents_without_certificate_show_controllers_and_say_so(world: World) -> None:
    own = world.install(GOOD)
    assert own.agent == own.controller
    assert "give --etcd-agent-cert" in world.said[0]


def test_what_is_mounted_is_what_the_stack_names(world: World) -> None:
    options = Options(etcd="https://10.0.0.9:2379")
    release = Release(options, options.etcd, world.install(GOOD | AGENTS).mounted())
    document = json.loads(release.text())
    assert "etcd" not in document["services"]
    named = {one["name"] for sort in ("secrets", "configs") for one in document[sort].values()}
    variables = release.variables()
    wanted = {name.strip("${}") for name in named if "ETCD" in name}
    assert {variables[name] for name in wanted} == {
        *("linkwire_own_etcd_ca_1", "linkwire_own_etcd_controller_1", "linkwire_own_etcd_agent_1")
    }


def encrypted(pair: bytes) -> bytes:
    key = load_pem_private_key(pair, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs --etcd-ca, --etcd-cert and --etcd-key"),
        ({"etcd_ca": "ca"}, "needs --etcd-ca, --etcd-cert and --etcd-key"),
        ({**GOOD, "etcd_ca": "none"}, "--etcd-ca: .*none: No such file"),
        ({**GOOD, "etcd_ca": "junk"}, "--etcd-ca: .*junk holds no certificate"),
        ({**GOOD, "etcd_ca": "broken"}, "--etcd-ca: .*broken holds no certificate that can be read"),
        ({**GOOD, "etcd_cert": "broken"}, "--etcd-cert: .*broken holds no readable certificate"),
        ({**GOOD, "etcd_key": "ca"}, "--etcd-key: .*ca holds no private key"),
        ({**GOOD, "etcd_key": "bad-key"}, "--etcd-key: .*bad-key holds no readable private key"),
        ({**GOOD, "etcd_key": "agent"}, "--etcd-key: .*agent holds the key of another certificate than --etcd-cert"),
        ({**GOOD, "etcd_key": "encrypted"}, "--etcd-key: .*: the private key is encrypted"),
        ({**GOOD, "etcd_cert": "old", "etcd_key": "old"}, "--etcd-cert: .*old expired at .* UTC"),
        ({**GOOD, "etcd_cert": "early", "etcd_key": "early"}, "--etcd-cert: .*early is not valid before"),
        ({**GOOD, "etcd_cert": "server", "etcd_key": "server"}, "--etcd-cert: .*server is not for clients"),
        ({**GOOD, "etcd_agent_cert": "agent"}, "--etcd-agent-cert and --etcd-agent-key go together"),
    ],
)
def test_unsuitable_file_is_named_and_nothing_made(world: World, files: dict[str, str], message: str) -> None:
    now = dt.datetime.now(dt.UTC)
    world.put("junk", b"junk")
    world.put("broken", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    world.put("bad-key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    world.put("encrypted", encrypted((world.folder / "controller").read_bytes()))
    world.put("old", CertificateAuthority("a", days=1, now=now - dt.timedelta(days=3)).client("controller"))
    world.put("early", CertificateAuthority("a", now=now + dt.timedelta(days=3)).client("controller"))
    world.put("server", AUTHORITY.server(["127.0.0.1"]))
    with pytest.raises(UsageError, match=message) as caught:
        world.install(files)
    assert "PRIVATE KEY-----" not in str(caught.value)
    assert not (world.folder / "given").exists()
