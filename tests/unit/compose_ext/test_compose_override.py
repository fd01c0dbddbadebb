"""The override: what it says, and what Docker makes of it together with the user's files."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose_ext.diagnostics import Report
from compose_ext.document.interpolate import escape
from compose_ext.language.override import check_labels, compile_override, dump
from mesh.model.labels.consent import Consent
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels, decode
from mesh.model.labels.ports import PortRange
from tests.unit.compose_ext.compose_files import docker_programs, links, newest_docker, told

SHOP = """\
version: "3.8"
x-wireguard:
  keys:
    shop: {rotate: 24h}
services:
  web:
    image: shop/web
    links: ["db:database", db, cache]
    external_links: [other_mail:mail]
    x-wireguard:
      links:
        db: {key: shop, ports: ["9001", "5432/tcp", "9000"]}
  db:
    image: postgres
    x-wireguard: {expose: [5432], strict: false}
  cache:
    image: redis
    networks: [back]
  bystander:
    image: x
networks:
  back: {}
"""
SURROGATES = frozenset(map(chr, range(0xD800, 0xE000)))


def compiled(*texts: str, stack: str = "shop") -> dict[str, Any]:
    found, report = links(*texts)
    assert found
    override = compile_override(found, stack, report)
    assert not report.errors, told(report)
    return override


def refused(*texts: str, stack: str = "shop") -> list[str]:
    found, report = links(*texts)
    assert found
    assert not report.errors, told(report)
    compile_override(found, stack, report)
    return [str(error) for error in report.errors]


def service_labels(override: dict[str, Any], service: str) -> ServiceLabels:
    labels, errors = decode(override["services"][service]["deploy"]["labels"])
    assert errors == ()
    return labels


def test_the_shop() -> None:
    override = compiled(SHOP)
    assert list(override) == ["version", "services"]
    assert override["version"] == "3.8"
    assert list(override["services"]) == ["web", "db", "cache"]
    assert override["services"]["cache"] == {
        "deploy": {"labels": {"linkwire.allow": ""}},
        "labels": {"linkwire.gate": "auto"},
    }
    assert all(set(service) <= {"deploy", "labels"} for service in override["services"].values()), "labels alone"
    assert service_labels(override, "web") == ServiceLabels(
        (
            LinkLabel(
                "shop_db",
                ("database", "db"),
                (PortRange("tcp", 5432, 5432), PortRange("tcp", 9000, 9001)),
                "shop_shop",
                86400,
            ),
            LinkLabel("shop_cache", ("cache",)),
            LinkLabel("other_mail", ("mail",)),
        ),
        consent=Consent(allow=()),
    )
    assert service_labels(override, "db") == ServiceLabels(
        (), (PortRange("tcp", 5432, 5432),), strict=False, consent=Consent(allow=())
    )


def test_the_labels_as_people_see_them() -> None:
    assert dump(compiled(SHOP)) == (
        'version: "3.8"\n'
        "services:\n"
        "  web:\n"
        "    deploy:\n"
        "      labels:\n"
        '        linkwire.allow: ""\n'
        "        linkwire.link.shop_db.key: shop_shop\n"
        '        linkwire.link.shop_db.ports: "5432/tcp,9000-9001/tcp"\n'
        '        linkwire.link.shop_db.rotate: "24h"\n'
        '        linkwire.links: "shop_db:database,shop_db:db,shop_cache:cache,other_mail:mail"\n'
        "    labels:\n"
        "      linkwire.gate: auto\n"
        "  db:\n"
        "    deploy:\n"
        "      labels:\n"
        '        linkwire.allow: ""\n'
        '        linkwire.expose: "5432/tcp"\n'
        '        linkwire.strict: "false"\n'
        "    labels:\n"
        "      linkwire.gate: auto\n"
        "  cache:\n"
        "    deploy:\n"
        "      labels:\n"
        '        linkwire.allow: ""\n'
        "    labels:\n"
        "      linkwire.gate: auto\n"
    )


PLACED = {"placement": {"constraints": ["node.labels.linkwire.gate == true"]}}


def test_the_gate_is_a_label_of_the_containers() -> None:
    override = compiled(
        "x-wireguard: {}\n"
        "services:\n"
        "  web: {links: [db], x-wireguard: {gate: true}}\n"
        "  db: {x-wireguard: {gate: false}}\n"
        "  cache: {x-wireguard: {gate: True}}\n"
        "  worker: {links: [db]}\n"
        "  cron: {links: [db], x-wireguard: {gate: auto}}\n"
        "  alone: {x-wireguard: {gate: auto}}\n"
    )["services"]
    assert override["web"]["labels"] == {"linkwire.gate": "true"}
    assert override["web"]["deploy"]["placement"] == PLACED["placement"]
    assert "labels" not in override["db"]
    assert override["cache"] == {
        "labels": {"linkwire.gate": "true"},
        "deploy": {"labels": {"linkwire.allow": ""}} | PLACED,
    }
    for name in ("worker", "cron"):
        assert override[name]["labels"] == {"linkwire.gate": "auto"}
        assert "placement" not in override[name]["deploy"]
    assert "labels" not in override["alone"]


def test_waiting_is_stored_as_a_container_label() -> None:
    override = compiled(
        "x-wireguard: {}\n"
        "services:\n"
        "  all: {links: [db, 'db:database', cache], external_links: [o_mail], x-wireguard: {gate: ready}}\n"
        "  one: {links: [db, cache], x-wireguard: {links: {cache: {gate: ready}}, gate: true}}\n"
        "  wish: {links: [db], depends_on: {db: {condition: service_healthy}, cache: {condition: service_healthy}}}\n"
        "  started: {links: [db], depends_on: {db: {condition: service_started}}}\n"
        "  refuses: {links: [db], depends_on: {db: {condition: service_healthy}}, x-wireguard: {gate: false}}\n"
        "  db: {}\n"
        "  cache: {}\n"
    )["services"]
    labels = {name: service.get("labels", {}) for name, service in override.items()}
    assert labels == {
        "all": {"linkwire.gate": "auto", "linkwire.gate.ready": "shop_db,shop_cache,o_mail"},
        "one": {"linkwire.gate": "true", "linkwire.gate.ready": "shop_cache"},
        "wish": {"linkwire.gate": "auto", "linkwire.gate.ready": "shop_db"},
        "started": {"linkwire.gate": "auto"},
        "refuses": {},
        "db": {"linkwire.gate": "auto"},
        "cache": {"linkwire.gate": "auto"},
    }
    assert "placement" in override["one"]["deploy"]
    assert "placement" not in override["all"]["deploy"]


@pytest.mark.parametrize(
    ("version", "written"),
    [
        ("", None),
        ('version: "3.7"', '"3.7"'),
        ("version: '3'", '"3"'),
        ("version: '3.10'", '"3.10"'),
    ],
)
def test_the_version_is_that_of_the_files(version: str, written: str | None) -> None:
    found, report = links(f"{version}\nx-wireguard: {{}}\nservices: {{a: {{links: [b]}}, b: {{}}}}")
    assert found
    text = dump(compile_override(found, "s", report))
    assert text.startswith(f"version: {written}\n" if written else "services:")


def test_options_of_one_service_under_two_names() -> None:
    """In the stack `shop` both lead to `shop_b`, and only one of them could count."""
    options = "x-wireguard: {links: {b: {ports: [1]}, shop_b: {ports: [2]}}}"
    text = f"x-wireguard: {{}}\nservices: {{a: {{links: [b], external_links: [shop_b], {options}}}, b: {{}}}}"
    assert refused(text) == [
        "a.yml:2:93: service 'a': x-wireguard.links: 'b' and 'shop_b' are one service in this stack: set it up once"
    ]
    assert refused(text, stack="other") == []


def test_limits_need_no_stack() -> None:
    names = [f"s{number}" for number in range(1001)]
    services = "".join(f"  {name}: {{}}\n" for name in names)
    found, report = links(f"x-wireguard: {{}}\nservices:\n{services}  all: {{links: [{', '.join(names)}]}}\n")
    assert found
    check_labels(found, report)
    (error,) = told(report)
    assert "1001 links, at most 1000 are allowed" in error


def test_nothing_to_say_is_nothing() -> None:
    assert compiled("x-wireguard: {}\nservices: {a: {image: x}}") == {}


def test_external_link_may_lead_back_into_stack() -> None:
    text = (
        "x-wireguard: {}\nservices: {a: {links: ['b:one'], external_links: ['shop_b:two', 'shop_c:c']}, b: {}, c: {}}"
    )
    override = compiled(text)
    assert service_labels(override, "a").links == (
        LinkLabel("shop_b", ("one", "two")),
        LinkLabel("shop_c", ("c",)),
    )
    assert list(override["services"]) == ["a", "b", "c"]
    assert list(compiled(text, stack="other")["services"]) == ["a", "b"]
    assert service_labels(compiled(text, stack="other"), "a").links == (
        LinkLabel("other_b", ("one",)),
        LinkLabel("shop_b", ("two",)),
        LinkLabel("shop_c", ("c",)),
    )


def test_files_may_repeat_each_other() -> None:
    override = compiled("x-wireguard: {}\nservices: {a: {links: [b]}, b: {}}", "services: {a: {links: ['b:B', b]}}")
    assert service_labels(override, "a").links == (LinkLabel("shop_b", ("b",)),)


def test_a_link_to_itself() -> None:
    override = compiled("x-wireguard: {}\nservices: {a: {links: ['a:peers']}}")
    assert service_labels(override, "a").links == (LinkLabel("shop_a", ("peers",)),)


def test_what_only_the_stack_makes_wrong() -> None:
    keyed = "{links: [bb], x-wireguard: {links: {bb: {key: kkkk}}}}"
    text = f"x-wireguard: {{keys: {{kkkk: }}}}\nservices: {{bb: {{}}, cccc: {keyed}}}"
    stack = "s" * 60
    assert refused(text, stack=stack) == [
        f"a.yml:1:22: in this stack the link key is '{stack}_kkkk': 65 characters, at most 63 are allowed",
        (
            f"a.yml:2:20: service 'cccc': in this stack the service is '{stack}_cccc': "
            "65 characters, at most 63 are allowed"
        ),
    ]


def test_more_links_than_labels_hold() -> None:
    names = [f"s{number}" for number in range(1001)]
    services = "".join(f"  {name}: {{}}\n" for name in names)
    (error,) = refused(f"x-wireguard: {{}}\nservices:\n{services}  all: {{links: [{', '.join(names)}]}}\n")
    assert error.startswith("a.yml:1004:3: service 'all': its labels cannot be written: label 'linkwire.links': ")
    assert error.endswith("1001 links, at most 1000 are allowed: the rest is left out")


@given(
    st.dictionaries(st.text(max_size=8) | st.sampled_from(["on", "1e3", "0o14", "null", "3.8"]), st.text(max_size=8))
)
def test_every_reader_reads_what_is_written(texts: dict[str, str]) -> None:
    texts = {key: value for key, value in texts.items() if not set(key + value) & SURROGATES}
    text = dump(texts)
    assert yaml.safe_load(text) == texts
    assert yaml.load(text, Loader=yaml.BaseLoader) == texts  # noqa: S506 - texts only


# --- with Docker itself


def stack_config(docker: str, folder: Path, *texts: str) -> dict[str, Any]:
    """Return what Docker makes of the files together."""
    arguments = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.yml"
        file.write_text(text)
        arguments += ["-c", str(file)]
    environment = os.environ | {"DOCKER_HOST": "unix:///nonexistent"}
    result = subprocess.run(
        [docker, "stack", "config", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    merged = yaml.safe_load(result.stdout)
    assert isinstance(merged, dict)
    return merged


@pytest.fixture(scope="module")
def docker() -> str:
    program = newest_docker()
    if program is None:
        pytest.skip(f"NO DOCKER CLI >= 23 HERE (only {docker_programs()}): what Docker merges was not looked at")
    return program


@pytest.mark.parametrize(
    "labels", ["", "deploy: {labels: {one: a, two: b}}", "deploy: {labels: [one=a, two=b]}", "deploy: {replicas: 2}"]
)
@pytest.mark.parametrize(
    "more", ["", "services: {web: {deploy: {labels: {three: c}}}}", "services: {web: {links: [db]}}"]
)
def test_docker_merges_labels(docker: str, tmp_path: Path, labels: str, more: str) -> None:
    first = SHOP.replace("    image: shop/web\n", f"    image: shop/web\n    {labels}\n")
    texts = [first, f'version: "3.8"\n{more}'] if more else [first]
    before = stack_config(docker, tmp_path, *texts)
    override = compiled(*texts)
    after = stack_config(docker, tmp_path, dump(override), *texts)

    assert after["networks"] == before["networks"]
    for name, service in after["services"].items():
        was = before["services"][name]
        added = override["services"].get(name, {})
        expected_labels = was.get("deploy", {}).get("labels", {}) | added.get("deploy", {}).get("labels", {})
        assert service.get("deploy", {}).get("labels", {}) == expected_labels
        assert service.get("labels", {}) == was.get("labels", {}) | added.get("labels", {})
        for changed in (service, was):
            changed.pop("labels", None)
            changed.get("deploy", {}).pop("labels", None)
        assert {key: value for key, value in service.items() if value != {}} == {
            key: value for key, value in was.items() if value != {}
        }


RICH = """\
version: "3.8"
x-wireguard: {}
services:
  web:
    image: x
    links: [db]
    command: ["a", "b"]
    entrypoint: sh -c
    environment: {A: "1", B: }
    expose: ["80"]
    ports: ["8080:80", {target: 443, published: 8443, mode: host}]
    dns: [1.1.1.1]
    extra_hosts: ["h:1.2.3.4"]
    healthcheck: {test: ["CMD", "x"], interval: 10s, retries: 3}
    labels: {c: d}
    logging: {driver: json-file, options: {max-size: 1m}}
    stop_grace_period: 20s
    ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}
    volumes: ["data:/data", {type: tmpfs, target: /t}]
    secrets: [s]
    configs: [{source: c, target: /c, mode: 0444}]
    tmpfs: [/run]
    init: true
    read_only: true
    cap_add: [NET_ADMIN]
    sysctls: {net.core.somaxconn: "1"}
    deploy:
      mode: replicated
      replicas: 0
      endpoint_mode: dnsrr
      labels: {a: b}
      update_config: {parallelism: 0, order: start-first, failure_action: rollback}
      rollback_config: {parallelism: 1}
      restart_policy: {condition: on-failure, max_attempts: 0}
      resources: {limits: {cpus: "0.5", memory: 10M}, reservations: {memory: 5M}}
      placement: {constraints: [node.role == worker], preferences: [{spread: node.id}], max_replicas_per_node: 1}
  db: {image: y}
volumes: {data: {}}
secrets: {s: {external: true}}
configs: {c: {external: true}}
"""


def test_docker_changes_nothing_else(docker: str, tmp_path: Path) -> None:
    before = stack_config(docker, tmp_path, RICH)
    after = stack_config(docker, tmp_path, dump(compiled(RICH)), RICH)
    web = after["services"]["web"]
    assert web["deploy"]["labels"] == {"a": "b", "linkwire.links": "shop_db:db", "linkwire.allow": ""}
    assert web["labels"] == {"c": "d", "linkwire.gate": "auto"}
    del web["deploy"]["labels"], before["services"]["web"]["deploy"]["labels"]
    del web["labels"], before["services"]["web"]["labels"]
    assert web == before["services"]["web"]
    silent = {"labels": {"linkwire.gate": "auto"}, "deploy": {"labels": {"linkwire.allow": ""}}}
    assert after["services"]["db"].items() >= silent.items()
    assert {**after["services"]["db"], **silent} == before["services"]["db"] | silent
    for section in ("volumes", "secrets", "configs"):
        assert after[section] == before[section]


def test_docker_adds_the_constraint_of_gate_true(docker: str, tmp_path: Path) -> None:
    text = RICH.replace("    links: [db]\n", "    links: [db]\n    x-wireguard: {gate: true}\n")
    after = stack_config(docker, tmp_path, text, dump(compiled(text)))
    constraints = after["services"]["web"]["deploy"]["placement"].pop("constraints")
    assert sorted(constraints) == ["node.labels.linkwire.gate == true", "node.role == worker"]
    before = stack_config(docker, tmp_path, text)["services"]["web"]["deploy"]["placement"]
    assert before.pop("constraints") == ["node.role == worker"]
    assert after["services"]["web"]["deploy"]["placement"] == before


@pytest.mark.parametrize("version", ["3.4", "3.5", "3.6", "3.7", "3.8", "3.9", "3.13", "3", ""])
def test_docker_takes_every_version_that_we_take(docker: str, tmp_path: Path, version: str) -> None:
    text = f'version: "{version}"\nx-wireguard: {{}}\nservices: {{a: {{image: one, links: [b]}}, b: {{image: two}}}}'
    merged = stack_config(docker, tmp_path, dump(compiled(text)), text)
    assert merged["services"]["a"]["deploy"]["labels"] == {"linkwire.links": "shop_b:b", "linkwire.allow": ""}


def test_docker_does_not_touch_dollars(docker: str, tmp_path: Path) -> None:
    labels = {"l": escape("$HOME ${HOME} $$")}
    merged = stack_config(docker, tmp_path, dump({"services": {"a": {"image": "x", "deploy": {"labels": labels}}}}))
    assert merged["services"]["a"]["deploy"]["labels"]["l"] == "$HOME ${HOME} $$"


names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,6}[a-zA-Z0-9]", fullmatch=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=2, max_size=6, unique_by=str.lower), st.data())
def test_docker_reads_every_name_as_we_write_it(
    docker: str, tmp_path: Path, services: list[str], data: st.DataObject
) -> None:
    wanted = {name: data.draw(st.lists(st.sampled_from(services), unique=True)) for name in services}
    quoted = {
        name: {"image": "x", "links": [f"{other}:n{other}" for other in linked]} for name, linked in wanted.items()
    }
    text = dump({"x-wireguard": {}, "services": quoted})
    found, report = links(text)
    assert found
    override = compile_override(found, "st", report)
    assert not report.errors, told(report)
    if not override:
        return
    merged = stack_config(docker, tmp_path, dump(override), text)
    for name, linked in wanted.items():
        labels, errors = decode(merged["services"][name].get("deploy", {}).get("labels", {}))
        assert errors == ()
        assert [link.provider for link in labels.links] == [f"st_{other}" for other in linked]


def test_report_is_left_alone_by_a_good_project() -> None:
    found, _ = links(SHOP)
    assert found
    report = Report()
    compile_override(found, "shop", report)
    assert len(report) == 0
