"""The agent's word that plain overlay packets stay refused over a reboot, and the answer of the gate's script."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.containers import start_gate
from agent.containers.after_reboot import FILE, AfterReboot

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path)
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A Docker that runs the script when it is asked for its description; the list is what that script says."""
    says: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/info"):
                for text in says:
                    (folder / FILE).write_text(text)
            body = b'{"ApiVersion": "1.41", "MinAPIVersion": "1.12"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"tcp://127.0.0.1:{server.server_address[1]}", says
    server.shutdown()
    server.server_close()


def test_refusal_is_asked_for_and_given_up(folder: Path, engine: tuple[str, list[str]]) -> None:
    url, says = engine
    says.append(f"{BOOT} 4790 lwnode\n")
    after = AfterReboot(folder / "state", url, ("lwnode",))
    assert after.refuse(4790) == ""
    asked = folder / "state" / FILE
    assert asked.read_text() == "4790 lwnode\n"
    number = asked.stat().st_ino
    assert after.refuse(4790) == ""
    assert asked.stat().st_ino == number, "nothing is written twice"
    for _ in range(2):
        assert after.refuse(0) == ""
    assert not asked.exists()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ([], "it has no gate: docker linkwire gate install"),
        (["sh: nft: not found\nand more\n"], "sh: nft: not found and more"),
        (["another-boot 4789 lwnode\n"], "another-boot 4789 lwnode"),
        ([f"{BOOT} 4790 lwnode\n"], f"{BOOT} 4790 lwnode"),
    ],
)
def test_node_without_refusal_after_reboot_is_named(
    folder: Path, engine: tuple[str, list[str]], says: list[str], problem: str
) -> None:
    url, answers = engine
    answers += says
    (folder / FILE).write_text(f"{BOOT} 4789 lwnode\n")  # of before: the gate may have gone since
    text = "after a reboot plain overlay packets pass on this node until its agent has started: "
    assert AfterReboot(folder / "state", url, ("lwnode",)).refuse(4789) == f"{text}{problem}"


def test_silent_docker_leaves_the_refusal_asked_for(folder: Path) -> None:
    after = AfterReboot(folder / "state", f"unix://{folder}/none.sock", ("lwnode",))
    assert "cannot ask Docker what it is" in after.refuse(4789)
    assert (folder / "state" / FILE).exists()
