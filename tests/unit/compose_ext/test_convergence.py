"""What `docker linkwire deploy` waits for: when a stack is complete, and what it says is missing."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from compose_ext.commands import deploy as command
from compose_ext.convergence import poller
from compose_ext.convergence.display import Display
from compose_ext.convergence.judgement import Judgement, judge
from compose_ext.convergence.observed import Link, Look, Recorded, Service, Task, WiredTask
from compose_ext.diagnostics import INCOMPLETE, DockerError, Place
from compose_ext.docker_cli import Docker
from compose_ext.language.project import Project
from compose_ext.language.project import Service as FileService
from compose_ext.language.validation import Links

DB = frozenset({"db"})
WEB_TASK, DB_TASK = Task("w1", "shop_web.1", "n1", "running"), Task("d1", "shop_db.1", "n2", "running")
WEB = Service("shop_web", 1, (WEB_TASK,), linked=True, providers={"shop_db": DB})
DATABASE = Service("shop_db", 1, (DB_TASK,), linked=True)
LINK = Link("shop_db", DB, allowed=True, exists=True)
WIRED_WEB, WIRED_DB = WiredTask("w1", "n1", wired=True, ready=True), WiredTask("d1", "n2", wired=True, ready=True)
RECORDED = {"shop_web": Recorded((LINK,), (WIRED_WEB,)), "shop_db": Recorded((), (WIRED_DB,))}
WHOLE = Look((DATABASE, WEB), RECORDED)


def missing(look: Look) -> list[str]:
    return [f"{service}: {one.text}" for service, one in judge(look).missing]


def with_web(service: Service) -> Look:
    return replace(WHOLE, services=(DATABASE, service))


def with_record(name: str, recorded: Recorded | None) -> Look:
    changed = {**RECORDED, name: recorded}
    return replace(WHOLE, recorded={key: value for key, value in changed.items() if value is not None})


def test_stack_is_complete_when_all_is_wired() -> None:
    judgement = judge(WHOLE)
    assert judgement.done
    assert not judgement.hopeless
    assert [line.text for line in judgement.lines] == ["1 of 1 task run, wired"] * 2


PULLING = Task("w2", "shop_web.2", "n3", "preparing")
NOWHERE = Task("w2", "shop_web.2", "", "pending", "no suitable node (1 node not available)")
SILENT = replace(WIRED_DB, silent=True)


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (with_web(replace(WEB, wanted=2)), "shop_web: Swarm has not started 1 of them"),
        (with_web(replace(WEB, wanted=2, tasks=(WEB_TASK, PULLING))), "shop_web: shop_web.2 on n3 is preparing"),
        (
            with_web(replace(WEB, wanted=2, tasks=(WEB_TASK, NOWHERE))),
            "shop_web: shop_web.2 is pending: no suitable node (1 node not available)",
        ),
        (with_web(replace(WEB, tasks=(replace(WEB_TASK, current=False),))), "shop_web.1 on n1 is to be replaced"),
        (with_web(replace(WEB, updating=True)), "shop_web: Swarm watches the new tasks"),
        (with_web(replace(WEB, tasks=(), failures=("n1: old", "n2: exit 1"))), "the last one failed: n2: exit 1"),
        (with_record("shop_web", None), "shop_web: Linkwire's controller has not taken it up yet"),
        (with_record("shop_web", Recorded((), (WIRED_WEB,))), "has not made its link to shop_db yet"),
        (
            with_record("shop_web", Recorded((replace(LINK, aliases=frozenset({"old"})),), (WIRED_WEB,))),
            "shop_web: the controller has not made its link to shop_db yet",
        ),
        (with_record("shop_web", Recorded((LINK,), ())), "not wired: the controller has given it no address yet"),
        (
            with_record("shop_web", Recorded((LINK,), (replace(WIRED_WEB, wired=False),))),
            "shop_web: shop_web.1 on n1 is not wired: its node's agent is at it",
        ),
        (
            with_record("shop_web", Recorded((LINK,), (replace(WIRED_WEB, wired=False, error="port taken"),))),
            "shop_web: shop_web.1 on n1 is not wired: port taken",
        ),
        (
            with_record("shop_web", Recorded((LINK,), (replace(WIRED_WEB, held="etcd lost records"),))),
            "its node's agent keeps to older records: etcd lost records",
        ),
        (
            with_record("shop_db", Recorded((), (SILENT,))),
            "shop_db: shop_db.1 on n2 is not wired: its node's agent is",
        ),
        (with_record("shop_db", Recorded((), (SILENT,))), "shop_web: shop_db, which it links to, has no ready task"),
        (
            with_record("shop_db", Recorded((), (replace(WIRED_DB, ready=False, wired=False, error="no route"),))),
            "shop_web: shop_db, which it links to, has no ready task: no route",
        ),
        (replace(WHOLE, unanswered="its links cannot be seen: no agent"), "shop_web: its links cannot be seen: no"),
    ],
)
def test_what_is_missing_is_named(look: Look, said: str) -> None:
    assert said in "\n".join(missing(look))
    assert not judge(look).done
    assert not judge(look).hopeless


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (Link("blog_db", DB, allowed=False, exists=True), "shop_web: blog_db does not allow its link"),
        (Link("blog_db", DB, allowed=True, exists=False), "shop_web: blog_db, which it links to, does not exist"),
    ],
)
def test_waiting_ends_where_others_have_to_act(link: Link, said: str) -> None:
    look = with_record("shop_web", Recorded((LINK, link), (WIRED_WEB,)))
    assert missing(look) == [said]
    assert judge(look).hopeless
    unwired = Recorded((LINK, link), (replace(WIRED_WEB, wired=False),))
    assert not judge(with_record("shop_web", unwired)).hopeless, "its own task may still be wired"


def test_swarm_that_gave_up_ends_the_waiting() -> None:
    look = with_web(replace(WEB, given_up="update paused due to failure of task x"))
    assert missing(look) == ["shop_web: Swarm has given up: update paused due to failure of task x"]
    assert judge(look).hopeless


def test_provider_scaled_to_nothing_is_no_fault() -> None:
    scaled = replace(WHOLE, services=(replace(DATABASE, wanted=0, tasks=()), WEB))
    whole = replace(scaled, recorded={**RECORDED, "shop_db": Recorded((), ())})
    assert missing(whole) == []
    assert judge(whole).idle == ("shop_db",), "and it is said"
    assert judge(WHOLE).idle == ()


def test_unlinked_service_needs_no_wiring() -> None:
    plain = Service("shop_plain", None, (Task("p", "shop_plain.n1", "n1", "running"),))
    (line,) = judge(Look((plain,), {}, "no agent")).lines
    assert (line.text, line.missing) == ("1 of 1 task run", ())


# --- as Docker and the agent say it


def docker_service(spec: dict[str, Any] | None = None, **changes: object) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "Name": "shop_web",
        "Labels": {"linkwire.links": "shop_db:db"},
        "Mode": {"Replicated": {"Replicas": 1}},
        "TaskTemplate": {"ContainerSpec": {"Image": "web:2"}, "RestartPolicy": {"Condition": "any"}},
    }
    return {"ID": "s1", "Spec": whole | (spec or {}), **changes}


def docker_task(state: str, image: str = "web:2", desired: str = "running", err: str = "") -> dict[str, Any]:
    return {
        "ID": "w1",
        "ServiceID": "s1",
        "Slot": 1,
        "NodeID": "N1",
        "DesiredState": desired,
        "Spec": {"ContainerSpec": {"Image": image}},
        "Status": {"State": state, "Err": err, "Timestamp": "2026"},
    }


def test_docker_service_is_read() -> None:
    tasks = [docker_task("running"), docker_task("failed", desired="shutdown", err="exit \x1b1")]
    service = poller.observed(docker_service(), tasks, {"N1": "n1"}, linked=True)
    assert service == replace(WEB, failures=("n1: exit ?1",))
    old = poller.observed(docker_service(), [docker_task("running", "web:1")], {"N1": "n1"}, linked=True)
    assert [task.current for task in old.tasks] == [False]


@pytest.mark.parametrize(
    ("status", "updating", "given_up"),
    [
        ({"State": "updating", "Message": "update in progress"}, True, ""),
        ({"State": "completed", "Message": "update completed"}, False, ""),
        ({"State": "paused", "Message": "update paused"}, False, "update paused"),
        ({"State": "rollback_completed", "Message": "rollback completed"}, False, "rollback completed"),
    ],
)
def test_update_status_is_read(status: dict[str, str], given_up: str, *, updating: bool) -> None:
    service = poller.observed(docker_service(UpdateStatus=status), [], {}, linked=True)
    assert (service.updating, service.given_up) == (updating, given_up)


@pytest.mark.parametrize(("condition", "counted"), [("none", 1), ("on-failure", 1), ("any", 0)])
def test_one_time_task_that_ended_counts(condition: str, counted: int) -> None:
    template = {"ContainerSpec": {"Image": "web:2"}, "RestartPolicy": {"Condition": condition}}
    done = docker_task("complete", desired="shutdown")
    service = poller.observed(docker_service(spec={"TaskTemplate": template}), [done], {"N1": "n1"}, linked=False)
    assert len(service.tasks) == counted


ANSWER = {
    "version": 1,
    "services": [
        {
            "name": "shop_web",
            "links": [{"provider": "shop_db", "aliases": ["db"], "allowed": True, "exists": True}],
            "tasks": [
                {"task": "w1", "node": "n1", "wired": True, "ready": True, "silent": False, "held": "", "error": ""}
            ],
        }
    ],
}


def test_agents_answer_is_read() -> None:
    assert dict(poller.read(ANSWER)) == {"shop_web": RECORDED["shop_web"]}
    for broken in ({"version": 2}, {"version": 1}, {"version": 1, "services": [{"name": 1}]}):
        with pytest.raises(DockerError):
            dict(poller.read(broken))


# --- waiting


class Looks:
    """A stack that says one look after the other, and at the end always the last; a second goes by between two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: Look | DockerError) -> None:
        self.clock, self.taken = 0.0, 0
        self.looks = looks
        self.stack = poller.Stack(Docker("none"), "shop", ("shop_web", "shop_db"), ("shop_web", "shop_db"))
        monkeypatch.setattr(poller.Stack, "look", lambda _self: self.next())
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def next(self) -> Look:
        self.taken += 1
        look = self.looks[min(self.taken, len(self.looks)) - 1]
        assert isinstance(look, Look)
        return look


UNWIRED = with_record("shop_web", Recorded((LINK,), (replace(WIRED_WEB, wired=False),)))


def test_complete_stack_has_to_stay_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, UNWIRED, WHOLE, UNWIRED, WHOLE, WHOLE, WHOLE)
    shown: list[Judgement] = []
    assert looks.stack.wait(60, shown.append).done
    assert (looks.taken, len(shown), looks.clock) == (6, 6, 5.0)


def test_waiting_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, UNWIRED)
    judgement = looks.stack.wait(7, lambda _judgement: None)
    assert (judgement.done, looks.clock) == (False, 7.0)


@pytest.fixture
def links() -> Links:
    place = Place("a.yml", 1, 1)
    return Links(Project(services={name: FileService(name, place) for name in ("web", "db")}), linked=frozenset())


def waited(links: Links, seconds: float = 5.0, *, quiet: bool = False) -> int:
    return command._wait(Docker("none"), "shop", links, command.Waiting(detach=False, seconds=seconds, quiet=quiet))


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], links: Links) -> None:
    Looks(monkeypatch, UNWIRED, WHOLE)
    assert waited(links) == 0
    said = capsys.readouterr().err.splitlines()
    assert "linkwire: shop_web: 1 of 1 task run, wired" in said
    assert said[-1] == "linkwire: shop: every link is wired, and every provider has a ready task, after 3 s"
    Looks(monkeypatch, UNWIRED)
    assert waited(links, quiet=True) == INCOMPLETE
    assert capsys.readouterr().err.splitlines() == [
        "shop is deployed, and not complete after 5 s:",
        "  shop_web: shop_web.1 on n1 is not wired: its node's agent is at it",
        "Nothing was undone. See docker linkwire check --stack shop, or deploy again to go on waiting",
    ]


def test_only_changed_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=False) as shown:
        for look in (UNWIRED, UNWIRED, WHOLE):
            shown.show(judge(look))
    assert capsys.readouterr().err.splitlines() == [
        "linkwire: shop_db: 1 of 1 task run, wired",
        "linkwire: shop_web: 1 of 1 task run; shop_web.1 on n1 is not wired: its node's agent is at it",
        "linkwire: shop_web: 1 of 1 task run, wired",
    ]
