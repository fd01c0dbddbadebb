"""Commands in README and docs: `docker linkwire` takes each, `make` has each target, every linked page is there."""

import itertools
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from compose_ext.cli import main
from tests.support import backup_files

PROJECT = Path(__file__).parents[3]
PAGES = sorted([PROJECT / "README.md", *PROJECT.glob("docs/*.md"), *PROJECT.glob("docs/recipes/*.md")])
FINGERPRINT = "f" * 64


def blocks(page: Path) -> list[str]:
    """Blocks of a page that name no language: commands, or their output."""
    return re.findall(r"^ *```\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[tuple[str, str]]:
    """Page and command line, for each in a block that begins with a program's name."""
    found = []
    for page in PAGES:
        for text in blocks(page):
            lines = text.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if line.strip().startswith(f"{program} ")]
    return sorted(set(found))


def mentions() -> list[tuple[str, str]]:
    """Page and command, for each in a sentence, where what it needs may be left out."""
    texts = {
        (page.name, text) for page in PAGES for text in re.findall(r"`(docker linkwire [^`]+)`", page.read_text())
    }
    return sorted((page, " ".join(text.split())) for page, text in texts)


def words(line: str) -> list[str]:
    """Its arguments, up to a comment, a redirection or the next command."""
    found = []
    for word in shlex.split(line, comments=True):
        if word in {"&&", "||", "|", ">", ";", "2>", ">>"}:
            break
        found.append(word.removesuffix(";"))
    return found


def test_compose_file_of_the_readme_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images are there for everybody: it is what a newcomer deploys first."""
    monkeypatch.setenv("LINKWIRE_DOCKER", "/nonexistent/docker")
    (text,) = re.findall(r"^ *```yaml\n(.*?)^ *```$", (PROJECT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "docker-compose.yml").write_text(textwrap.dedent(text))
    assert main(["linkwire", "check", "-c", str(tmp_path / "docker-compose.yml"), "--stack", "shop"]) == 0
    assert re.findall(r"image: (\S+)", text) == ["nginx:alpine", "postgres:alpine"]


@pytest.mark.parametrize(("page", "line"), commands("docker linkwire"))
def test_every_command_in_docs_is_taken(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINKWIRE_DOCKER", "/nonexistent/docker")
    monkeypatch.chdir(tmp_path)
    given = words(line)[1:]
    for file in (word for word in given if word.endswith((".yml", ".env"))):
        (tmp_path / file).write_text('version: "3.8"\nx-wireguard: {}\nservices: {web: {image: web}}\n')
    backup_files.prepare(tmp_path, given)
    given = [FINGERPRINT if given[at - 1] == "--fingerprint" else word for at, word in enumerate(given)]
    assert main(given) != 2, (page, line, capsys.readouterr().err)


@pytest.mark.parametrize(("page", "text"), mentions())
def test_every_command_in_sentences_exists(page: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(text)[1:]
    assert main([*itertools.takewhile(re.compile("[a-z]+$").match, given), "--help"]) == 0, page
    flags = {word.partition("=")[0] for word in given if word.startswith("--")}
    described = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert flags <= described, page


@pytest.mark.parametrize(("page", "line"), commands("make"))
def test_every_make_target_in_docs_exists(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {word for word in words(line)[1:] if re.fullmatch("[a-z][a-z-]*", word)}
    assert named <= targets, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_page_is_there(page: Path) -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())}
    missing = [one for one in targets if one and "://" not in one and not (page.parent / one).exists()]
    assert missing == []
