"""Random compose files with links, full of what Docker merges badly: one stack for each seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

Compose = dict[str, Any]


@dataclass
class Stack:
    """A stack as a user has it.

    Attributes:
        files: path below the user's folder -> its contents, as YAML or as text.
        named: what stands behind `-c`, from the user's folder.
        environment: variables.
        stdin: what `-c -` reads.
    """

    files: dict[str, Compose | str]
    named: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    stdin: Compose | None = None


PORTS: tuple[Any, ...] = (
    "53:53/tcp", "53:53/udp", "80", "443", "8080:80", "8081:80", "8080:80/udp", "9000-9002", "9000-9002:9000-9002",
    {"target": 80, "mode": "host"}, {"target": 81, "published": 8080, "protocol": "udp"}, {"target": 443},
    {"target": 80, "published": 8080, "mode": "host"}, {"target": 8443, "published": 443},
)  # fmt: skip
VOLUMES: tuple[Any, ...] = (
    "./data:/data", "../up:/up:ro", "data:/var/lib/data", "/abs:/abs", "~/home:/home2", "${PWD}/here:/here",
    {"type": "bind", "source": "./conf", "target": "/conf", "read_only": True}, {"type": "tmpfs", "target": "/t"},
    {"type": "volume", "source": "data", "target": "/again", "volume": {"nocopy": True}}, "./data:/data2",
)  # fmt: skip
DEPLOY: tuple[dict[str, Any], ...] = (
    {"replicas": 0}, {"replicas": 3}, {"mode": "global"}, {"endpoint_mode": "dnsrr"}, {"labels": {"one": "1"}},
    {"labels": ["two=2", "three"]}, {"placement": {"constraints": ["node.role == worker"]}},
    {"placement": {"preferences": [{"spread": "node.labels.z"}], "max_replicas_per_node": 2}},
    {"update_config": {"parallelism": 0, "order": "start-first", "delay": "0s"}},
    {"rollback_config": {"parallelism": 2, "failure_action": "pause"}},
    {"restart_policy": {"condition": "none", "max_attempts": 0, "delay": "0s"}},
    {"resources": {"limits": {"cpus": "0.5", "memory": "50M"}, "reservations": {"memory": "20M"}}},
)  # fmt: skip
SETTINGS: tuple[dict[str, Any], ...] = (
    {"command": "sh -c 'a b'"}, {"command": ["one", "two"]}, {"entrypoint": "x y"}, {"init": False}, {"tty": True},
    {"environment": {"A": "1", "B": None, "C": ""}}, {"environment": ["A=2", "D", "E=${HOME}"]},
    {"env_file": "vars.env"}, {"labels": {"l": "1"}}, {"labels": ["mm=2", "nn"]}, {"dns": ["10.0.0.1", "10.0.0.2"]},
    {"dns_search": "corp.example"}, {"extra_hosts": ["h:10.0.0.1", "h:10.0.0.2"]}, {"hostname": "{{.Node.ID}}"},
    {"healthcheck": {"test": "true", "interval": "5s", "retries": 0}},
    {"logging": {"driver": "json-file", "options": {"max-size": "1m"}}}, {"read_only": True}, {"user": "1:2"},
    {"stop_grace_period": "0s"}, {"stop_signal": "SIGINT"}, {"sysctls": {"net.core.somaxconn": 5}},
    {"tmpfs": ["/run", "/cache"]}, {"ulimits": {"nofile": 7, "nproc": {"soft": 1, "hard": 2}}},
    {"cap_add": ["NET_ADMIN"], "cap_drop": ["ALL"]}, {"working_dir": "/w"}, {"expose": ["80", "81"]},
    {"stdin_open": True}, {"isolation": "default"}, {"depends_on": ["s0"]}, {"restart": "always"},
)  # fmt: skip
NETWORKS: tuple[Compose, ...] = (
    {}, {}, {}, {"networks": ["front"]}, {"networks": ["front", "back"]}, {"networks": {"back": None}},
    {"networks": {"front": {"aliases": ["other", "s0"]}}}, {"networks": ["default"]}, {"networks": []},
    {"networks": {"default": {"aliases": ["here"]}, "front": None}},
)  # fmt: skip
IMAGES = ("nginx", "${IMAGE}", "r/x:1")
DEFAULTS: tuple[Any, ...] = (
    None, None, {"driver": "overlay", "driver_opts": {"encrypted": "true"}}, {"internal": True}, {"attachable": True},
    {"external": True, "name": "proxy"}, {"labels": ["x=y"]},
)  # fmt: skip


def random_stack(seed: int) -> Stack:
    """Return the stack of a seed, always the same one."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    version = chance.choice(["3.8", "3.9"])
    names = [f"s{number}" for number in range(chance.randint(2, 5))]
    first = _file(chance, version, names, names)
    folder = chance.choice(["", "", "sub/", "sub/deeper/"])
    files: dict[str, Compose | str] = {f"{folder}docker-compose.yml": first}
    named = [f"{folder}docker-compose.yml"]
    for number in range(chance.choice([0, 0, 1, 1, 2])):
        path = f"{chance.choice(['', 'over/'])}more{number}.yml"
        files[path] = _file(chance, version, names, chance.sample(names, chance.randint(1, len(names))), later=True)
        named.append(path)
    files[f"{folder}vars.env"] = f"F=file\nG={seed}\n"
    files["vars.env"] = files["over/vars.env"] = f"F=other\nH={seed}\n"
    for name in ("conf.txt", f"{folder}conf.txt", "over/conf.txt"):
        files[name] = f"{name} {seed}\n"
    stdin = None
    if chance.random() < 0.2:
        position = chance.randrange(len(named))
        text = files.pop(named[position])
        assert isinstance(text, dict)
        stdin, named[position] = text, "-"
    return Stack(files, named, {"IMAGE": f"image{seed}"}, stdin)


def _file(chance: random.Random, version: str, names: list[str], some: list[str], *, later: bool = False) -> Compose:
    composed: Compose = {"version": version}
    if not later or chance.random() < 0.3:
        composed["x-wireguard"] = {"keys": {"k": {"rotate": "24h"}}} if chance.random() < 0.3 else {}
    composed["services"] = {name: _service(chance, names, later=later) for name in some}
    if not later:
        composed["networks"] = {"front": {}, "back": {"internal": True}}
        if default := chance.choice(DEFAULTS):
            composed["networks"]["default"] = default
        composed["volumes"] = {"data": {}}
        composed["configs"] = {"c": {"file": "./conf.txt"}, "d": {"external": True}}
        composed["secrets"] = {"s": {"file": "./conf.txt"}, "t": {"external": True, "name": "t2"}}
    return composed


def _service(chance: random.Random, names: list[str], *, later: bool) -> Compose:
    service: Compose = {} if later and chance.random() < 0.5 else {"image": chance.choice(IMAGES)}
    if chance.random() < 0.7:
        service["links"] = [f"{name}:n-{name}" for name in chance.sample(names, chance.randint(1, len(names)))]
    if chance.random() < 0.3:
        service["external_links"] = ["other_db:n-other"]
    for key, choices in (("ports", PORTS), ("volumes", VOLUMES)):
        if chance.random() < 0.6:
            service[key] = chance.sample(choices, chance.randint(1, min(4, len(choices))))
    for key, sources in (("configs", ("c", "d")), ("secrets", ("s", "t"))):
        if chance.random() < 0.5:
            service[key] = [
                {"source": source, "target": f"/{key}/{chance.randrange(10**6)}"}
                | chance.choice([{}, {"mode": 0o400}])
                for source in chance.choices(sources, k=chance.randint(1, 3))
            ]
    for setting in chance.sample(SETTINGS, chance.randint(0, 5)):
        service |= setting
    service |= _deploy(chance, later=later) | chance.choice(NETWORKS)
    if chance.random() < 0.3:
        service["x-wireguard"] = chance.choice(
            [{"expose": ["80/tcp"]}, {"strict": False}, {"expose": ["53/udp", 53]}]
        )
    return service


def _deploy(chance: random.Random, *, later: bool) -> Compose:
    deploy: Compose = {}
    for setting in chance.sample(DEPLOY, chance.randint(0, 4)):
        deploy |= setting
    if later:
        deploy.pop("mode", None)
    if later or "mode" in deploy:
        deploy.pop("replicas", None)  # a global service has none, and the other file's may be global
    return {"deploy": deploy} if deploy else {}
