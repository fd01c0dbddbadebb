"""The rules' table in real namespaces: put in place, read back, replaced, mended; what else is there stays."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.firewall import nft, nft_confinement, preflight, ruleset
from agent.firewall.ruleset import Table, render
from agent.linux import nft_json, privileges
from agent.linux.netns import TaskNetns
from agent.linux.nft_json import Rules
from mesh.errors import NetnsGoneError, Retryable, Terminal
from mesh.model.labels.ports import PortRange
from mesh.model.records import Refused
from mesh.topology.policy import Allow, Balance, Policy
from tests.netns.programs import capture
from tests.netns.world import World, delete_netns, ip, wait_for
from tests.support.policies import SUBNET, SUBNET6, address, policies

DEVICE = "lw0"
NOTHING = Policy(SUBNET, SUBNET6)
SOMETHING = replace(
    NOTHING,
    balance=(Balance(address(900), (address(1), address(2)), "db"),),
    outbound=(Allow("db", (address(1), address(2)), (PortRange("tcp", 80, 80), PortRange("udp", 50, 60))),),
    inbound=(Allow("web", (address(3),), None),),
    isolated=(address(1 << 15),),
)


def rendered(policy: Policy) -> Rules:
    return render(policy, DEVICE)


def present(netns: TaskNetns) -> Rules | None:
    table = nft.read(netns)
    return table.rules if table else None


def said(netns: TaskNetns, program: str, *arguments: str) -> str:
    """What a program prints in a namespace; it does so there and not as the agent does."""
    return netns.run(lambda: subprocess.run([program, *arguments], check=True, capture_output=True, text=True)).stdout


@pytest.fixture
def netns(world: World) -> TaskNetns:
    return world.netns()


@pytest.fixture
def wire(world: World, netns: TaskNetns) -> tuple[TaskNetns, TaskNetns]:
    """Two namespaces, and the way from the first to the mesh's network by the device `beside`, which is not ours."""
    other = world.netns()
    names = [Path(one.path).name for one in (netns, other)]
    ip("link", "add", "beside", "netns", names[0], "type", "veth", "peer", "name", "beside", "netns", names[1])
    for name, host in zip(names, ("198.51.100.1/24", "198.51.100.2/24"), strict=True):
        ip("-n", name, "address", "add", host, "dev", "beside")
        ip("-n", name, "link", "set", "beside", "up")
    ip("-n", names[0], "route", "add", str(SUBNET), "via", "198.51.100.2")
    return netns, other


def test_applied_table_reads_back_and_is_removed(netns: TaskNetns) -> None:
    assert nft.read(netns) is None
    nft.remove(netns)
    nft.apply(netns, rendered(SOMETHING))
    assert present(netns) == rendered(SOMETHING)
    nft.remove(netns)
    assert nft.read(netns) is None
    assert said(netns, "nft", "list", "ruleset") == ""


def test_every_policy_reads_back_whatever_was_there_before(world: World) -> None:
    netns = world.netns()

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given])
    @given(policies())
    def each(policy: Policy) -> None:
        nft.apply(netns, rendered(policy))
        assert present(netns) == rendered(policy)

    each()


def test_a_thousand_peers_and_three_hundred_backends(netns: TaskNetns) -> None:
    peers = tuple(map(address, range(1, 1001)))
    for count in (1000, 999):
        policy = replace(
            NOTHING,
            balance=(Balance(address(2000), peers[:300], "db"),),
            outbound=(Allow("db", peers[:count], None),),
        )
        nft.apply(netns, rendered(policy))
        assert present(netns) == rendered(policy)


def test_the_agents_own_namespace_gets_no_table(netns: TaskNetns) -> None:
    nft.apply(netns, rendered(SOMETHING))
    assert (
        "linkwire" not in subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    )


def test_what_is_as_meant_is_not_touched(netns: TaskNetns) -> None:
    nft.apply(netns, rendered(SOMETHING))
    before = said(netns, "nft", "--handle", "list", "table", "inet", "linkwire")
    nft.apply(netns, rendered(SOMETHING))
    assert said(netns, "nft", "--handle", "list", "table", "inet", "linkwire") == before


def test_other_peoples_tables_stay_as_they_are(netns: TaskNetns) -> None:
    # As Docker's own name server is reached in a network of the user's.
    said(netns, "iptables-nft", "-t", "nat", "-N", "DOCKER_OUTPUT")
    said(netns, *["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.11", "-j", "DOCKER_OUTPUT"])
    to_it = "-d 127.0.0.11 -p udp --dport 53 -j DNAT --to 127.0.0.11:4053"
    said(netns, "iptables-nft", "-t", "nat", "-A", "DOCKER_OUTPUT", *to_it.split())
    said(netns, "nft", "add table inet mine; add chain inet mine in { type filter hook input priority 5; }")
    said(netns, "nft", "add rule inet mine in tcp dport 22 counter accept")
    others = ["ip", "nat"], ["inet", "mine"]
    before = [said(netns, "nft", "--handle", "list", "table", *other) for other in others]
    for policy in (NOTHING, SOMETHING, NOTHING):
        nft.apply(netns, rendered(policy))
        assert present(netns) == rendered(policy)
    nft.remove(netns)
    assert [said(netns, "nft", "--handle", "list", "table", *other) for other in others] == before


@pytest.mark.parametrize(
    "edit",
    [
        "flush table inet linkwire",
        "flush chain inet linkwire in_link",
        "insert rule inet linkwire in_link accept",
        "add rule inet linkwire refuse drop",
        "delete table inet linkwire",
        "add counter inet linkwire mine",
        "add chain inet linkwire mine; add rule inet linkwire mine accept",
        "add chain inet linkwire mine; add rule inet linkwire mine jump refuse; add rule inet linkwire in jump mine",
        "add chain inet linkwire mine { type filter hook input priority -5; }; add rule inet linkwire mine accept",
        "add chain inet linkwire in { policy drop; }",
        "add set inet linkwire mine { type ipv4_addr; }; insert rule inet linkwire in ip saddr @mine accept",
        "add table inet linkwire { flags dormant; }",
    ],
)
def test_edit_from_inside_the_task_is_undone(netns: TaskNetns, edit: str) -> None:
    meant = rendered(SOMETHING)
    nft.apply(netns, meant)
    said(netns, "nft", edit)
    assert present(netns) != meant
    nft.apply(netns, meant)
    assert present(netns) == meant


def test_replacing_rules_leaks_and_miscounts_no_packet(
    wire: tuple[TaskNetns, TaskNetns],
) -> None:
    netns, _ = wire
    enough = threading.Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        with netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outbound:
            while not enough.is_set():
                with contextlib.suppress(PermissionError, ConnectionRefusedError):
                    outbound.sendto(b"canary", (str(address(1)), 9))
                sent += 1
                enough.wait(0.001)

    nft.apply(netns, rendered(NOTHING))
    with capture(netns, "beside") as frames:
        thread = threading.Thread(target=flood)
        thread.start()
        for policy in (SOMETHING, NOTHING) * 20:
            nft.apply(netns, rendered(policy))
        enough.set()
        thread.join()
    assert not [frame for frame in frames if b"canary" in frame]
    table = nft.read(netns)
    assert table is not None
    assert table.refused == (Refused("out", "", sent),)
    assert sent > 20


def test_without_rules_the_same_packets_do_pass(wire: tuple[TaskNetns, TaskNetns]) -> None:
    netns, _ = wire
    with (
        capture(netns, "beside") as frames,
        netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outbound,
    ):
        outbound.sendto(b"canary", (str(address(1)), 9))
    assert [frame for frame in frames if b"canary" in frame]


def test_many_threads_in_many_namespaces(world: World) -> None:
    made = [world.netns() for _ in range(4)]

    def work(number: int) -> None:
        netns = made[number % len(made)]
        policy = replace(SOMETHING, outbound=(Allow(f"s{number % len(made)}", (address(1),), None),))
        for _ in range(5):
            nft.apply(netns, rendered(policy))
            assert present(netns) == rendered(policy)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


def test_nothing_is_kept_open(netns: TaskNetns) -> None:
    nft.apply(netns, rendered(SOMETHING))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for policy in (NOTHING, SOMETHING):
        nft.apply(netns, rendered(policy))
        nft.read(netns)
    nft.remove(netns)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_namespace_that_has_ended(netns: TaskNetns) -> None:
    nft.apply(netns, rendered(SOMETHING))
    delete_netns(netns)
    for call in (nft.read, nft.remove, lambda gone: nft.apply(gone, rendered(NOTHING))):
        with pytest.raises(NetnsGoneError, match="has ended"):
            call(netns)


@contextlib.contextmanager
def owned(netns: TaskNetns) -> Iterator[None]:
    """The table belongs to another program, for as long as that runs."""
    command = ["nft", "--interactive"]
    with netns.run(lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as program:
        assert program.stdin is not None
        program.stdin.write(b"add table inet linkwire { flags owner; }\n")
        program.stdin.flush()
        wait_for(lambda: "linkwire" in said(netns, "nft", "list", "tables"))
        yield
        program.stdin.close()


def test_table_owned_by_another_program_is_not_changed(netns: TaskNetns) -> None:
    with owned(netns):
        assert present(netns) not in {None, rendered(SOMETHING)}
        with pytest.raises(Terminal, match=r"nftables says: .*Operation not permitted.*owns"):
            nft.apply(netns, rendered(SOMETHING))
    nft.apply(netns, rendered(SOMETHING))  # it went with its owner
    assert present(netns) == rendered(SOMETHING)


def test_a_table_that_nft_cannot_list_is_replaced(netns: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger than nft may become: it is ended by its limit, and its memory is not the agent's."""
    said(netns, "nft", "add table inet linkwire; add counter inet linkwire in_; add chain inet linkwire mine")
    monkeypatch.setitem(nft._LIMITS, resource.RLIMIT_FSIZE, 4096)
    nft.apply(netns, rendered(SOMETHING))
    table = nft.read(netns)
    assert table is not None
    assert table.rules not in {(), rendered(SOMETHING)}
    nft.apply(netns, rendered(NOTHING))
    monkeypatch.undo()
    assert present(netns) == rendered(NOTHING)


def run_instead(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell's script run where nft would, in the same way."""
    monkeypatch.setattr(nft, "_COMMAND", ("sh", "-c", script))


def see_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let what is run read /proc, which nft does not see (tests/netns/test_nft_confinement.py)."""
    folder.chmod(0o777)
    for above in list(folder.parents)[:-2]:
        above.chmod(above.stat().st_mode | 0o011)
    monkeypatch.setattr(nft_confinement, "enter", lambda _: folder)


def test_nft_runs_with_no_more_than_it_needs(
    netns: TaskNetns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see_files(monkeypatch, tmp_path)
    run_instead(monkeypatch, "cat /proc/self/status")
    status = dict(line.split(":", 1) for line in nft._nft(netns, "").splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(privileges.USER)] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"].strip() == "1"
    net_admin = f"{1 << 12:016x}"  # linux/capability.h
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {net_admin}
    assert status["NSpid"].split()[1:] == ["2"], "it is the second process of a namespace of its own"


def test_nft_gets_its_limits_before_any_input(
    netns: TaskNetns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see_files(monkeypatch, tmp_path)
    run_instead(monkeypatch, 'exec <"$0"; read told; cat /proc/self/limits; cat')
    limits = nft._nft(netns, "told\nand more").splitlines()
    assert limits.pop() == "and more"
    shown = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert shown["Max cpu time"] == ["20"] * 2
    assert shown["Max file size"] == [str(16 << 20)] * 2
    assert shown["Max address space"] == [str(512 << 20)] * 2


def test_what_does_not_end_is_ended(netns: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "while :; do :; done")
    monkeypatch.setitem(nft._LIMITS, resource.RLIMIT_CPU, 1)
    with pytest.raises(nft._Broken, match="ended by SIGKILL"):
        nft._nft(netns, "")
    run_instead(monkeypatch, "exec sleep 3600")
    monkeypatch.setattr(nft, "_TIMEOUT", 0.1)
    with pytest.raises(Retryable, match="did not end within"):
        nft._nft(netns, "")


def test_a_command_that_nobody_reads_stops_nothing(netns: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "exit 3")
    with pytest.raises(nft._Refused, match="exit code 3"):
        nft._nft(netns, "x" * (1 << 20))


def test_kernel_refusal_is_quoted_in_short(netns: TaskNetns) -> None:
    policy = replace(NOTHING, outbound=tuple(Allow(f"{n}" + "x" * 300, (address(n),), None) for n in range(1, 50)))
    with pytest.raises(Terminal, match="cannot set the rules of the task: nftables says: ") as caught:
        nft.apply(netns, rendered(policy))
    assert len(str(caught.value)) < 400
    assert nft.read(netns) is None, "all or nothing"


def test_vanished_object_may_be_retried(netns: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    nft.apply(netns, rendered(SOMETHING))
    transaction = nft_json.transaction

    def overtaken(rules: Rules, before: Rules | None) -> str:
        said(netns, "nft", "delete table inet linkwire")
        return transaction(rules, before)

    monkeypatch.setattr(nft_json, "transaction", overtaken)
    with pytest.raises(Retryable, match="No such file or directory"):
        nft.apply(netns, rendered(NOTHING))
    monkeypatch.undo()
    nft.apply(netns, rendered(NOTHING))
    assert present(netns) == rendered(NOTHING)


def test_lack_of_descriptors_may_be_retried(netns: TaskNetns) -> None:
    nft.apply(netns, rendered(SOMETHING))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    filler = [socket.socket() for _ in range(taken)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, limits[1]))
        with pytest.raises(Retryable, match="Too many open files"):
            nft.read(netns)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for one in filler:
            one.close()
    assert present(netns) == rendered(SOMETHING)


def test_known_table_is_not_listed_but_counters_read(
    wire: tuple[TaskNetns, TaskNetns], monkeypatch: pytest.MonkeyPatch
) -> None:
    netns, _ = wire
    nft.apply(netns, rendered(SOMETHING))
    assert present(netns) == rendered(SOMETHING)
    monkeypatch.setattr(nft, "_COMMAND", ("false",))
    with netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outbound:
        for count in (1, 2, 3):
            with pytest.raises(PermissionError):
                outbound.sendto(b"", (str(address(1)), 9))
            assert nft.read(netns) == Table(rendered(SOMETHING), (Refused("out", "", count),))
    said(netns, "nft", "add table ip somebody")  # whatever it is, it is looked into
    with pytest.raises(Terminal, match="cannot read the rules"):
        nft.read(netns)


def test_missing_table_is_reported_without_a_process(netns: TaskNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    said(netns, "nft", "add table ip linkwire; add table inet mine")
    monkeypatch.setattr(nft, "_COMMAND", ("false",))
    assert nft.read(netns) is None


def test_counters_of_others_are_no_refusals(netns: TaskNetns) -> None:
    said(netns, "nft", "add table ip linkwire; add counter ip linkwire in_ { packets 5 bytes 5; }")
    said(netns, "nft", "add table inet mine; add counter inet mine in_ { packets 5 bytes 5; }")
    nft.apply(netns, rendered(NOTHING))
    assert nft.read(netns) == Table(rendered(NOTHING), ())


def test_this_kernel_has_what_rules_need() -> None:
    preflight.require()


def test_what_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wish = {"match": {"op": "==", "left": {"wish": None}, "right": 1}}
    monkeypatch.setattr(ruleset, "_ACCEPT", wish)  # it cannot be rendered in any kernel
    wishes = {"wishes (NFT_WISH)": "add rule inet linkwire c goto nowhere"}
    monkeypatch.setattr(preflight, "_NEEDED", {**preflight._NEEDED, **wishes})
    expected = r"^nftables of this node cannot do what links need: wishes \(NFT_WISH\): [^;]*No such [^;]+$"
    with pytest.raises(Terminal, match=expected):
        preflight.require()


def test_failed_nft_is_reported_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruleset, "_ACCEPT", {"wish": None})
    with pytest.raises(
        Terminal, match="cannot do what links need: cannot set the rules of the task: nftables says: "
    ):
        preflight.require()


def test_library_with_other_listing_is_detected_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = ruleset.parse
    monkeypatch.setattr(ruleset, "parse", lambda listing: parse(listing.replace("echo-request", "echo?")))
    with pytest.raises(Terminal, match=r"nft lists rules in an unknown form: \{.*echo"):
        preflight.require()


def test_without_the_program_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Terminal, match=r"^nft is not installed: it is of the Debian package nftables$"):
        preflight.require()


def test_every_element_of_rules_can_be_named(netns: TaskNetns) -> None:
    """The texts of `_NEEDED` hold what `render` makes, so that whatever is lacking can be named."""
    assert nft.lacking(netns, preflight._NEEDED) == []
    tried = said(netns, "nft", "--json", "list", "table", "inet", "linkwire")
    for statement in ("dnat", "numgen", "reject", "vmap", "fib", "ct", "counter", "set"):
        assert f'"{statement}": ' in tried, statement
