"""`check` and `deploy` beside the language: Docker's own word, other files than -c, a Swarm without Linkwire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose_ext.cli import main
from compose_ext.docker_cli import Docker
from compose_ext.swarm import linked_stacks
from tests.unit.compose_ext.compose_files import docker_programs
from tests.unit.compose_ext.docker_api import Api, serving

PROGRAMS = docker_programs()
ASKED = 25
GOOD = 'version: "3.8"\nx-wireguard: {}\nservices: {web: {image: a, links: [db]}, db: {image: "${DB_IMAGE:-b}"}}\n'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("api") / "docker.sock") as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good file, in which the plugin runs under the newest docker."""
    assert PROGRAMS, "NO DOCKER CLI HERE: the plugin cannot be tried; apt-get install docker.io"
    api.forget()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", api.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("LINKWIRE_DOCKER", max(PROGRAMS, key=lambda program: PROGRAMS[program]))
    monkeypatch.delenv("COMPOSE_FILE", raising=False)
    (tmp_path / "a.yml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def newest(folder: Path) -> Path:
    if max(PROGRAMS.values()) < (ASKED, 0):
        pytest.skip(f"NO DOCKER CLI >= {ASKED} HERE: what it says of files was not looked at")
    return folder


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (GOOD.replace("links: [db]", "links: [db], profiles: [x]"), "a.yml:3:41: service 'web': "),
        (GOOD + "name: shop\n", "a.yml:4:1: "),
        (GOOD.replace("links: [db]", "links: [db], depends_on: 7"), "a.yml:3:41: service 'web': "),
        (GOOD.replace("links: [db]", "links: [db], env_file: gone.env"), ""),
        (GOOD + "include: [b.yml]\n", "a.yml:4:1: "),
    ],
)
def test_what_docker_refuses_is_passed_on(
    newest: Path, text: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (newest / "a.yml").write_text(text)
    assert main(["check", "-c", "a.yml"]) == 2
    *_, said, count = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{place}Docker refuses this: ")
    assert count == "1 error"


def test_keys_that_swarm_ignores_are_named(newest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (newest / "a.yml").write_text(GOOD.replace("image: a,", "image: a, build: ., restart: always, depends_on: [db],"))
    assert main(["check", "-c", "a.yml"]) == 0
    *warnings, summary = capsys.readouterr().out.splitlines()
    assert [line.partition("service 'web': ")[2].partition(":")[0] for line in warnings] == [
        "build",
        "restart",
        "depends_on",
    ]
    assert summary == "ok: 1 link between 2 services"


def test_json(newest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "json", "-c", "a.yml"]) == 0
    good = {"ok": True, "summary": "ok: 1 link between 2 services", "errors": [], "warnings": []}
    assert json.loads(capsys.readouterr().out) == good
    (newest / "a.yml").write_text(GOOD.replace("[db]", "[dbb]").replace("image: a,", "image: a, restart: always,"))
    assert main(["check", "--format=json", "-c", "a.yml"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["summary"]) == (False, "")
    assert answer["errors"] == [
        {
            "file": "a.yml",
            "line": 3,
            "column": 53,
            "service": "web",
            "key": "links",
            "message": "no service 'dbb' in these files; did you mean 'db'?",
        }
    ]
    assert [warning["key"] for warning in answer["warnings"]] == ["restart"]
    assert main(["check", "--format=yaml", "-c", "a.yml"]) == 2


def test_a_file_without_its_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.yml"]) == 2
    assert "a compose file is named with -c: docker linkwire check -c a.yml\n" in capsys.readouterr().err
    assert main(["deploy", str(folder / "a.yml"), "shop"]) == 2
    assert f"docker linkwire deploy -c {folder}/a.yml STACK\n" in capsys.readouterr().err


def test_compose_file_is_read_where_none_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.yml").write_text('version: "3.8"\nservices: {web: {links: ["db:second"]}}\n')
    monkeypatch.setenv("COMPOSE_FILE", "a.yml:b.yml")
    assert main(["render", "shop"]) == 0
    captured = capsys.readouterr()
    assert 'linkwire.links: "shop_db:db,shop_db:second"' in captured.out
    assert captured.err == "linkwire: no -c: taking COMPOSE_FILE, a.yml b.yml\n"
    monkeypatch.setenv("COMPOSE_PATH_SEPARATOR", ";")
    assert main(["render", "shop"]) == 2
    assert "a.yml:b.yml: there is no such file" in capsys.readouterr().err
    assert main(["render", "-c", "a.yml", "shop"]) == 0
    assert ":second" not in capsys.readouterr().out


def test_variables_from_a_file(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.yml").write_text(GOOD.replace("links: [db]", 'links: ["${NAME}"]'))
    (folder / ".env").write_text("# names\nexport NAME='db'\nDB_IMAGE=\"post${KIND}\" # quoted\nSAID=no\n")
    monkeypatch.setenv("KIND", "gres")
    monkeypatch.setenv("SAID", "yes")
    assert main(["check", "-c", "a.yml"]) == 2
    unset = "NAME is not set (.env here is not read, as docker stack deploy does not: --env-file .env does)"
    assert f"links: '': write it as SERVICE or SERVICE:ALIAS; {unset}\n" in capsys.readouterr().out
    assert main(["deploy", "-d", "-c", "a.yml", "--env-file", ".env", "--resolve-image=never", "st"]) == 0
    made = api.forget().services
    assert made["st_db"]["TaskTemplate"]["ContainerSpec"]["Image"] == "postgres:latest"
    assert made["st_web"]["Labels"]["linkwire.links"] == "st_db:db"


def test_what_is_wrong_in_a_file_of_variables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.env").write_text("A=1\nB C\nD='open\n")
    assert main(["check", "-c", "a.yml", "--env-file", "x.env", "--env-file", "gone.env"]) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if ".env" in line] == [
        "x.env:2:1: 'B C': write it as NAME=value",
        "x.env:3:1: D: the quote at its begin is not closed, or something stands behind it",
        "gone.env: this --env-file cannot be read (No such file or directory)",
    ]


def test_swarm_without_linkwire_is_refused_beforehand(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder
    monkeypatch.setattr(api, "has_linkwire", False)
    words = ["deploy", "-c", "a.yml", "--resolve-image=never"]
    assert main([*words, "st"]) == 1
    said = capsys.readouterr().err
    assert "nothing was deployed: this Swarm has no Linkwire agent and no controller" in said
    assert "docker linkwire install --image IMAGE" in said
    assert api.forget().services == {}
    assert main([*words, "--without-linkwire", "st"]) == 0
    assert list(api.forget().services) != []


def test_a_stack_that_lost_its_links_is_noticed(folder: Path, api: Api) -> None:
    (folder / "plain.yml").write_text('version: "3.8"\nservices: {web: {image: a}}\n')
    docker = Docker(max(PROGRAMS, key=lambda program: PROGRAMS[program]))
    assert main(["deploy", "-d", "-c", "a.yml", "--resolve-image=never", "st"]) == 0
    (note,) = api.recorded.configs.values()
    assert note["Labels"] == {
        "com.docker.stack.namespace": "st",
        "linkwire.stack": "st",
        "linkwire.consumers": "web",
    }
    lost = (
        "stack st: web had links and have none now: `docker stack deploy` drops them. "
        "Deploy it by `docker linkwire deploy -c FILE st`"
    )
    assert linked_stacks.dropped(docker, {"st_web": False, "st_db": False}, None) == [lost]
    assert linked_stacks.dropped(docker, {"st_web": False}, "other") == []
    assert linked_stacks.dropped(docker, {"st_web": True, "st_db": False}, None) == []
    assert linked_stacks.dropped(docker, {}, None) == [], "the service is gone"
    assert main(["deploy", "-d", "-c", "plain.yml", "--resolve-image=never", "st"]) == 0
    assert api.recorded.configs == {}, "links that were taken away by the plugin are meant"
