"""Our tests on a real Debian kernel with WireGuard, and what the guest does when that kernel fails.

A boot takes 5 s, so each run has a guest of its own: a panic in one does not take another's results with it.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel import guest, inner
from tests.kernel.debian_kernel import REPO
from tests.kernel.errors import GuestLostError, GuestPanicError, GuestSetupError, GuestTimeoutError
from tests.support.effort import LONG, in_long_form

if TYPE_CHECKING:
    from collections.abc import Callable

    Announce = Callable[[str, inner.InnerRun], None]

HERE = Path(__file__).parent
BACKEND_VARIABLE = "LINKWIRE_TEST_BACKEND"  # kernel or userspace; tests/netns reads it


# An emulated processor takes ten to a hundred times as long: of tests/netns it runs in every run what has the
# kernel's WireGuard for its subject, in `make chaos` also what uses it, and by hand the rest:
# python -m tests.kernel --timeout 7200 pytest tests/netns/test_rules.py
SUBJECT = (
    *("test_backend", "test_traffic", "test_the_key_that_is_set", "test_the_same_link_keys"),
    *("test_key_change_loses_no_packet", "test_vanished_device", "test_next_reading_repairs", "test_changed_peer"),
)
"""Beginnings of the names of modules and tests of tests/netns."""
BY_HAND = (
    *("test_rules", "test_nft", "test_gate", "test_conntrack", "test_liveness", "test_datagrams"),
    # Also by hand, --timeout 600: a figure; and what has an etcd of its own and is about the agent's loop.
    *("test_takeover", "test_confirmed", "test_crowded_node"),
    # There one in some thousand packets looks a route up while it is being replaced, and finds the old one dead:
    # agent/linux/interfaces.py, add_route.
    "test_no_packet_lacks_route_while_mtu_changes",
    # The node's own rules, a file, programs that know of no device: whatever the backend.
    *("test_node_table", "test_flows", "test_torn_reads", "test_connectivity", "test_probes", "test_packet_filter"),
    "test_examiner",
    # Half a minute of waiting; also by hand with the kernel's WireGuard.
    *("test_blocked_traffic_is_broken", "test_initiations_of_the_other_end"),
    # Rules and programs that know of no device, again, and times of a second, which an emulated processor misses
    # where Swarms run beside it.
    *("test_early_connection", "test_with_dnsrr", "test_new_answers_count", "test_a_responder_that_is_killed"),
    *("test_responder_has_no_privileges", "test_each_task_gets_its_own_answers", "test_taken_port"),
    *("test_a_responder_that_hangs", "test_agent_without_cap_kill_replaces", "test_hosts_go_on_for_long"),
    # Half an hour of an emulated processor beside two Swarms: thousands of rules, capabilities, namespaces, bridges.
    *("test_port_lists", "test_recorded", "test_rights", "test_neighbours", "test_netns", "test_wrong_namespace"),
    "test_fifty_tasks_leave_no_file_open",
    # What only wireguard-go can do wrong, and what has no device.
    *("test_userspace", "test_holder", "test_first_process"),
    # Minutes of datagrams, agents that are killed and begin again, times of a second: also by hand. guest_tests has
    # node encryption with the kernel's WireGuard and IPsec.
    *("test_node_encryption", "test_overlay_mtu", "test_tunnel_examiner", "test_rogue_nodes", "test_preflight"),
    *("test_adapter_faults", "test_dead_ends", "test_outside_changes", "test_underlay_mtu", "test_own_addresses"),
    *("test_idle_connections", "test_invalid_packets"),
    # Thousands of questions, whatever the backend.
    *("test_dns_programs", "test_other_questions_pass", "test_flood_from_one_task"),
)
"""What even `make chaos` leaves out, likewise."""
WHOLE_S = 5400 if LONG else 2900
"""Seconds that the guest may take for its suites."""


def test_what_the_guest_is_to_run_exists() -> None:
    names = {name for module in modules() for name in names_in(module)}
    chosen = (*SUBJECT, *BY_HAND)
    assert [choice for choice in chosen if not any(name.startswith(choice) for name in names)] == []


def modules() -> list[Path]:
    return sorted((REPO / "tests/netns").glob("test_*.py"))


def names_in(module: Path) -> list[str]:
    """Its own name and its tests'."""
    return [module.stem, *re.findall(r"(?m)^def (test_\w+)", module.read_text())]


@pytest.mark.timeout(WHOLE_S + 100)
def test_self_test_and_netns_suite_pass_in_guest(announce: Announce) -> None:
    """One guest for both: a boot and a start of pytest are half a minute of an emulated processor."""
    suites = ("tests/kernel/guest_tests", "tests/netns")
    # Others would only be imported: on an emulated processor that takes longer than their tests here.
    whole = suites[1:] if LONG else [path for path in modules() if any(n.startswith(SUBJECT) for n in names_in(path))]
    choice = f"not ({' or '.join(BY_HAND)})" + (f" and ({' or '.join(SUBJECT)})" if not LONG else "")
    options = ("-q", "--durations=8", "-k", f"guest_tests or {choice}")
    env = {BACKEND_VARIABLE: "kernel"}
    run = inner.run(
        [*(str(REPO / each) for each in (suites[0], *whole)), *options], timeout=WHOLE_S, env=env, stream=sys.stdout
    )
    announce(" and ".join(suites), run)
    if problem := run.problem():
        pytest.fail(f"{problem}: {run.summary()}", pytrace=False)
    for suite in suites:
        assert any(outcome.name.startswith(suite.replace("/", ".")) for outcome in run.outcomes), suite
    assert not (HERE / "guest_tests" / "written-in-the-guest").exists(), "the guest wrote on the host's disk"


@pytest.mark.timeout(3500)
@in_long_form
def test_long_form_of_guest_tests_passes(announce: Announce) -> None:
    """Wrong clocks, the routing mesh, node encryption over IPv6: half an hour of an emulated processor."""
    suite, env = "tests/kernel/guest_tests", {"LINKWIRE_CHAOS": "long", BACKEND_VARIABLE: "kernel"}
    run = inner.run([str(REPO / suite), "-q"], timeout=3400, env=env, stream=sys.stdout)
    announce(suite, run)
    if problem := run.problem():
        pytest.fail(f"{problem}: {run.summary()}", pytrace=False)
    assert run.count("skipped") == 0


def test_exit_code_output_and_exchange_come_back(tmp_path: Path) -> None:
    stream = io.StringIO()
    script = f"printf 'a\\n\\0b'; echo ä >&2; pwd; echo \"$GREETING\"; cp /etc/hostname {guest.EXCHANGE}; exit 7"
    result = guest.run(
        ["sh", "-c", script], timeout=180, env={"GREETING": "it's me"}, exchange=tmp_path, stream=stream
    )
    assert result.returncode == 7
    assert result.output == f"a\n\0bä\n{REPO}\nit's me\n"
    assert stream.getvalue() == result.output
    assert (tmp_path / "hostname").read_bytes() == Path("/etc/hostname").read_bytes()
    assert 0 < result.boot_seconds <= result.seconds


class SlowStream(io.StringIO):
    """A reader that is still busy when the guest has ended."""

    def write(self, text: str) -> int:
        time.sleep(0.3)
        return super().write(text)


def test_no_output_is_lost_at_the_end() -> None:
    stream = SlowStream()
    result = guest.run(["seq", "100000"], timeout=180, stream=stream)
    assert result.returncode == 0
    assert result.output == "".join(f"{number}\n" for number in range(1, 100001))
    assert stream.getvalue() == result.output


def test_panic_is_reported_with_the_console_output() -> None:
    script = "echo before the panic; sleep 1; echo c > /proc/sysrq-trigger; sleep 60"
    with pytest.raises(GuestPanicError) as caught:
        guest.run(["sh", "-c", script], timeout=180)
    assert "sysrq triggered crash" in str(caught.value)
    assert "before the panic" in str(caught.value)


def test_guest_ending_without_exit_code_is_reported() -> None:
    with pytest.raises(GuestLostError, match="without an exit code"):
        guest.run(["sh", "-c", "echo o > /proc/sysrq-trigger; sleep 60"], timeout=180)


def test_a_hang_is_reported_and_stopped() -> None:
    # The only processor spins at the highest real-time priority, with its time limit lifted: nothing else ever runs.
    script = """
    echo then it hangs; sleep 1
    echo -1 > /proc/sys/kernel/sched_rt_runtime_us
    exec chrt --fifo 99 sh -c 'while :; do :; done'
    """
    before = guest_processes()
    with pytest.raises(GuestTimeoutError, match="did not end in 8 s") as caught:
        guest.run(["sh", "-c", script], timeout=8, cpus=1)
    assert "then it hangs" in str(caught.value)
    assert guest_processes() <= before


def test_guest_that_boots_too_slowly_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "BOOT_TIMEOUT", 1.0)
    with pytest.raises(GuestTimeoutError, match="did not boot in 1 s"):
        guest.run(["true"], timeout=180)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopping_the_runner_leaves_nothing_behind(number: signal.Signals, code: int) -> None:
    before = guest_processes()
    with tempfile.TemporaryDirectory() as folder:
        runner = subprocess.Popen(
            [sys.executable, "-m", "tests.kernel", "--", "sh", "-c", "echo running; sleep 600"],
            cwd=REPO,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": folder},
        )
        try:
            assert runner.stdout is not None
            assert runner.stdout.readline() == b"running\n"
            assert len(guest_processes() - before) >= 3  # others may run guests of their own
            runner.send_signal(number)
            assert runner.wait(timeout=20) == code
            wait_until(lambda: guest_processes() <= before, seconds=10)
            # Nobody can clean up after SIGKILL: that one leaves its files.
            assert number == signal.SIGKILL or not list(Path(folder).iterdir())
        finally:
            runner.kill()
            runner.communicate()


def test_the_guests_own_tests_refuse_the_host() -> None:
    command = inner.pytest_command([str(HERE / "guest_tests")])
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "python -m tests.kernel pytest tests/kernel/guest_tests" in done.stderr


def test_missing_commands_say_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "COMMANDS", (*guest.COMMANDS, "no-such-emulator"))
    with pytest.raises(GuestSetupError, match=r"missing no-such-emulator: run deploy/bootstrap\.sh kernel"):
        guest.run(["true"], timeout=10)


@pytest.mark.parametrize(
    ("body", "problem", "shown"),
    [
        ("def test_a(): assert 1 == 2, 'sum'", "tests failed in the guest", "FAILED"),
        ("import pytest\ndef test_a(): pytest.skip('no luck')", "no test passed in the guest", "no luck"),
        ("", "no test passed in the guest", "0 passed"),
        ("import no_such_module", "tests failed in the guest", "no_such_module"),
    ],
)
def test_inner_run_that_proves_nothing_is_a_problem(tmp_path: Path, body: str, problem: str, shown: str) -> None:
    (tmp_path / "test_inner.py").write_text(body)
    report = tmp_path / "junit.xml"
    command = inner.pytest_command(["-c", os.devnull, str(tmp_path), f"--junitxml={report}"])
    code = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode
    run = inner.InnerRun(inner.read_report(report), guest.Result(code, "", 0, 0))
    assert problem in str(run.problem())
    assert shown in run.summary()


def guest_processes() -> set[int]:
    """The pids of every QEMU and virtiofsd on this machine."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                program = (entry / "exe").readlink().name
            except OSError:  # a kernel thread, or gone
                continue
            if program in {"qemu-system-x86_64", "virtiofsd"}:
                found.add(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
