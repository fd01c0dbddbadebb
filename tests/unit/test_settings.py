"""What the programs are told: flags before the environment before the default, and bad ones refused in words."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

import agent.settings
import controller.settings

VERIFY = Path("/run/linkwire/verify-keys")


def test_the_controllers_defaults() -> None:
    assert controller.settings.parse([], {}) == controller.settings.Settings(
        etcd=("http://127.0.0.1:2379",),
        docker="unix:///var/run/docker.sock",
        subnet=IPv4Network("100.96.0.0/16"),
        rest_s=600,
        stack_share=0.25,
        name=socket.gethostname(),
        log_level="info",
        link_seed=Path("/run/secrets/linkwire_link_seed"),
        signing_seed=Path("/run/secrets/linkwire_signing_seed"),
        verify_keys=VERIFY,
        metrics=("127.0.0.1", 9587),
    )


def test_the_agents_defaults() -> None:
    assert agent.settings.parse([], {}) == agent.settings.Settings(
        command="supervise",
        etcd=("http://127.0.0.1:2379",),
        docker="unix:///var/run/docker.sock",
        first_port=51820,
        last_port=53819,
        address=None,
        state=Path("/var/lib/linkwire"),
        certificates=Path("/run/linkwire/certificates"),
        stack=None,
        log_level="info",
        metrics=("127.0.0.1", 9586),
        verify_keys=VERIFY,
    )


CONTROLLER = {
    "LINKWIRE_ETCD": "http://a:1, b:2,,",
    "LINKWIRE_ETCD_INSECURE": "1",
    "LINKWIRE_DOCKER_URL": "tcp://d",
    "LINKWIRE_SUBNET": "10.0.0.0/29",
    "LINKWIRE_ADDRESS_REST": "15",
    "LINKWIRE_NAME": "one",
    "LINKWIRE_LINK_SEED_FILE": "/link",
    "LINKWIRE_LOG_LEVEL": "debug",
    "LINKWIRE_CONTROLLER_METRICS": "192.0.2.1:1",
    "LINKWIRE_SIGNING_SEED_FILE": "/seed",
    "LINKWIRE_VERIFY_KEYS_FILE": "/keys",
}


def test_controller_flags_override_the_environment() -> None:
    told = controller.settings.parse([], CONTROLLER)
    assert told == controller.settings.Settings(
        etcd=("http://a:1", "b:2"),
        docker="tcp://d",
        subnet=IPv4Network("10.0.0.0/29"),
        rest_s=15,
        stack_share=0.25,
        name="one",
        log_level="debug",
        link_seed=Path("/link"),
        signing_seed=Path("/seed"),
        verify_keys=Path("/keys"),
        metrics=("192.0.2.1", 1),
    )
    flags = [
        "--etcd=c:3",
        "--docker=x",
        "--subnet=10.1.0.0/16",
        "--address-rest=1",
        "--name=two",
        "--link-seed=l",
        "--log-level=error",
        "--signing-seed=s",
        "--verify-keys=k",
        "--metrics=off",
    ]
    assert controller.settings.parse(flags, CONTROLLER) == controller.settings.Settings(
        etcd=("c:3",),
        docker="x",
        subnet=IPv4Network("10.1.0.0/16"),
        rest_s=1,
        stack_share=0.25,
        name="two",
        log_level="error",
        link_seed=Path("l"),
        signing_seed=Path("s"),
        verify_keys=Path("k"),
        metrics=None,
    )
    assert controller.settings.parse([], dict.fromkeys(CONTROLLER, "")) == controller.settings.parse([], {})


def test_agent_flags_override_the_environment() -> None:
    environ = {
        "LINKWIRE_ETCD": "a:1,b:2",
        "LINKWIRE_ETCD_INSECURE": "1",
        "LINKWIRE_DOCKER_URL": "tcp://d",
        "LINKWIRE_PORTS": "1000-1000",
        "LINKWIRE_ADDRESS": "192.0.2.1",
        "LINKWIRE_STATE": "/state",
        "LINKWIRE_CERTIFICATES": "/certificates",
        "LINKWIRE_LOG_LEVEL": "debug",
        "LINKWIRE_METRICS": "off",
    }
    told = agent.settings.parse(["inspect", "--stack", "shop"], environ)
    assert told == agent.settings.Settings(
        command="inspect",
        etcd=("a:1", "b:2"),
        docker="tcp://d",
        first_port=1000,
        last_port=1000,
        address=IPv4Address("192.0.2.1"),
        state=Path("/state"),
        certificates=Path("/certificates"),
        stack="shop",
        log_level="debug",
        metrics=None,
        verify_keys=VERIFY,
    )
    told = agent.settings.parse(["run", "--ports", "1-65535", "--address", "2001:db8::1"], environ)
    assert (told.command, told.first_port, told.last_port) == ("run", 1, 65535)
    assert told.address == IPv6Address("2001:db8::1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", None),
        ("off", None),
        ("0.0.0.0:1", ("0.0.0.0", 1)),  # noqa: S104 - only read here
        ("[::1]:9586", ("::1", 9586)),
        ("node-1.example:65535", ("node-1.example", 65535)),
    ],
)
def test_where_the_agent_lets_prometheus_ask(text: str, told: tuple[str, int] | None) -> None:
    assert agent.settings.parse(["--metrics", text], {}).metrics == told


@pytest.mark.parametrize(
    ("flag", "variable", "value", "reason"),
    [
        ("--subnet", "LINKWIRE_SUBNET", "10.0.0.1/16", "has host bits set"),
        ("--subnet", "LINKWIRE_SUBNET", "fd00::/64", "is not an IPv4 subnet such as 100.96.0.0/16"),
        ("--subnet", "LINKWIRE_SUBNET", "10.0.0.0/30", "has too few addresses: at most /29"),
        ("--address-rest", "LINKWIRE_ADDRESS_REST", "0", "is not a number of seconds from 1"),
        ("--address-rest", "LINKWIRE_ADDRESS_REST", "10m", "is not a number of seconds from 1"),
        ("--log-level", "LINKWIRE_LOG_LEVEL", "loud", "'loud' is none of debug, info, warning, error"),
        ("--etcd", "LINKWIRE_ETCD", "etcd", "'etcd' is not an etcd endpoint such as https://10.0.0.1:2379"),
        ("--etcd", "LINKWIRE_ETCD", " , ", "no etcd endpoint"),
    ],
)
def test_the_controller_refuses_what_it_cannot_use(
    capsys: pytest.CaptureFixture[str], flag: str, variable: str, value: str, reason: str
) -> None:
    for argv, environ in (([flag, value], {}), ([], {variable: value})):
        with pytest.raises(SystemExit) as caught:
            controller.settings.parse(argv, environ)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert f"argument {flag}: " in told
        assert reason in told


@pytest.mark.parametrize(
    ("flag", "variable", "value", "reason"),
    [
        ("--ports", "LINKWIRE_PORTS", "51820", "is not a range of UDP ports such as 51820-53819"),
        ("--ports", "LINKWIRE_PORTS", "2-1", "is not a range of UDP ports"),
        ("--ports", "LINKWIRE_PORTS", "0-5", "is not a range of UDP ports"),
        ("--ports", "LINKWIRE_PORTS", "1-65536", "is not a range of UDP ports"),
        ("--ports", "LINKWIRE_PORTS", "a-b", "is not a range of UDP ports"),
        ("--address", "LINKWIRE_ADDRESS", "eth0", "'eth0' is not an IP address"),
        ("--metrics", "LINKWIRE_METRICS", "9586", "'9586' is neither an address and port such as 127.0.0.1:9586 nor"),
        ("--metrics", "LINKWIRE_METRICS", "127.0.0.1:0", "is neither an address and port"),
        ("--metrics", "LINKWIRE_METRICS", "127.0.0.1:65536", "is neither an address and port"),
        ("--metrics", "LINKWIRE_METRICS", "::1:9586", "is neither an address and port"),
    ],
)
def test_the_agent_refuses_what_it_cannot_use(
    capsys: pytest.CaptureFixture[str], flag: str, variable: str, value: str, reason: str
) -> None:
    for argv, environ in (([flag, value], {}), ([], {variable: value})):
        with pytest.raises(SystemExit) as caught:
            agent.settings.parse(argv, environ)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert f"argument {flag}: " in told
        assert reason in told


def test_the_agent_knows_its_commands_alone() -> None:
    with pytest.raises(SystemExit):
        agent.settings.parse(["reap"], {})


@pytest.mark.parametrize("parse", [controller.settings.parse, agent.settings.parse])
def test_help_names_each_variable(capsys: pytest.CaptureFixture[str], parse: object) -> None:
    assert callable(parse)
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "$LINKWIRE_ETCD" in shown
    assert "http://127.0.0.1:2379" in shown
