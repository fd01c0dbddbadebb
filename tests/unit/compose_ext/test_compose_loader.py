"""Reading compose files: every trap YAML has, and that no bytes at all end in a traceback or take for ever."""

import itertools
import os
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compose_ext.diagnostics import Report
from compose_ext.document import composer
from compose_ext.document.loader import MAX_BYTES, Source, load, read
from compose_ext.document.tree import Mapping, Scalar, Sequence, Tree
from tests.unit.compose_ext.compose_files import document, told

NOBODY = 65534
LAUGHS = "\n".join(
    ["x-a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    + [f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)
MERGED_LAUGHS = "\n".join(
    ["x-big: &big {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}"]
    + [f"x-{n}: {{<<: *big}}" for n in range(2000)]
)


def plain(node: Tree) -> object:
    """Turn nodes into lists, dicts and texts."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {name: plain(entry.value) for name, entry in node.entries.items()}


def refusal(data: str | bytes) -> list[str]:
    report = Report()
    assert load(Source("a.yml", data.encode() if isinstance(data, str) else data, rereadable=True), report) is None
    return told(report)


def test_values_know_their_places() -> None:
    root = document('version: "3.8"\nservices:\n  web:\n    links: [db, "cache:c"]\n').root
    services = root.entries["services"]
    assert services.key == Scalar(2, 1, "services", plain=True)
    assert isinstance(services.value, Mapping)
    web = services.value.entries["web"].value
    assert isinstance(web, Mapping)
    links = web.entries["links"].value
    assert links == Sequence(4, 12, [Scalar(4, 13, "db", plain=True), Scalar(4, 17, "cache:c", plain=False)])


def test_texts_stay_as_they_were_written() -> None:
    root = document("{a: on, b: 0x10, c: 3.10, d: 2024-01-01, e: ~, no: 1_000}").root
    assert plain(root) == {"a": "on", "b": "0x10", "c": "3.10", "d": "2024-01-01", "e": "~", "no": "1_000"}


def test_anchors_and_merge_keys() -> None:
    root = document(
        "x-one: &one {a: 1, b: 1}\n"
        "x-two: &two {b: 2, c: 2}\n"
        "single: {b: own, <<: *one}\n"
        "several: {<<: [*one, *two], d: own}\n"
        "inline: {<<: {z: 0}}\n"
        "list: [*one, *one]\n"
        'quoted: {"<<": text}\n'
    ).root
    read_back = plain(root)
    assert isinstance(read_back, dict)
    assert read_back["single"] == {"a": "1", "b": "own"}
    assert read_back["several"] == {"a": "1", "b": "1", "c": "2", "d": "own"}
    assert read_back["inline"] == {"z": "0"}
    assert read_back["list"] == [{"a": "1", "b": "1"}] * 2
    assert read_back["quoted"] == {"<<": "text"}


def test_an_anchor_may_be_taken_over_within_itself() -> None:
    assert plain(document("a: &x [&x inner, *x]\nb: *x").root) == {"a": ["inner", "inner"], "b": "inner"}


def test_byte_order_mark_and_windows_lines() -> None:
    report = Report()
    root = document(b"\xef\xbb\xbfservices:\r\n  web: {}\r\n", report=report).root
    assert plain(root) == {"services": {"web": {}}}
    assert (root.line, root.column) == (1, 1)


@pytest.mark.parametrize(
    ("data", "told_then"),
    [
        ("", ["a.yml:1:1: the file is empty"]),
        ("# only words\n", ["a.yml:2:1: the file is empty"]),
        ("---\n", ["a.yml:2:1: a compose file is a mapping with `services`, this one is nothing"]),
        ("- a\n- b\n", ["a.yml:1:1: a compose file is a mapping with `services`, this one is a list"]),
        ("services", ["a.yml:1:1: a compose file is a mapping with `services`, this one is a single value"]),
        (
            "a: 1\n---\nb: 2\n",
            [
                "a.yml:2:1: a second document begins here: Docker reads only the first; put it in a file of its own",
            ],
        ),
        ("services:\n\tweb: {}\n", ["a.yml:2:1: a tab stands where YAML wants spaces"]),
        ("services:\n  web:\n  \timage: x\n", ["a.yml:3:3: a tab stands where YAML wants spaces"]),
        ("a:\n-\tb\n", ["a.yml:2:2: a tab stands where YAML wants spaces"]),
        (
            "services:\n  web: {}\n  db: {}\n  web: {}\n",
            ["a.yml:4:3: 'web' is here for the second time, first on line 2"],
        ),
        (
            "a: 1\nb: {c: 1, c: 2}\na: 2\n'a': 3\n",
            [
                "a.yml:2:11: 'c' is here for the second time, first on line 2",
                "a.yml:3:1: 'a' is here for the second time, first on line 1",
                "a.yml:4:1: 'a' is here for the second time, first on line 1",
            ],
        ),
        (
            "a: {<<: {b: 1}, <<: {c: 1}}",
            ["a.yml:1:17: '<<' stands twice in this mapping: merge several as <<: [*a, *b]"],
        ),
        ("a: {<<: [1]}", ["a.yml:1:10: '<<' takes a mapping, or a list of mappings"]),
        ("a: {<<: text}", ["a.yml:1:9: '<<' takes a mapping, or a list of mappings"]),
        ("a: &a [*a]", ["a.yml:1:8: the alias *a stands within what it stands for"]),
        ("a: &a {b: {<<: *a}}", ["a.yml:1:16: the alias *a stands within what it stands for"]),
        ("a: *b", ["a.yml:1:4: no anchor &b stands before this alias"]),
        ("[a]: 1", ["a.yml:1:1: a key must be a single value, not a list or a mapping"]),
        ("? {a: 1}\n: 2", ["a.yml:1:3: a key must be a single value, not a list or a mapping"]),
        ("x: &x [1]\n*x : 2", ["a.yml:1:4: a key must be a single value, not a list or a mapping"]),
        ("a: " + "[" * 5000, ["a.yml:1:203: nested more than 200 deep"]),
        ("a: " + "{a: " * 5000, ["a.yml:1:800: nested more than 200 deep"]),
        ("a: b\nc: " + "[\n" * 5000, ["a.yml:201:1: nested more than 200 deep"]),
        ("a: " + "[" * 5000 + "]" * 5000, ["a.yml:1:203: nested more than 200 deep"]),
        ("a: " + "[{" * 2500, ["a.yml:1:203: nested more than 200 deep"]),
        ("- " * 5000, ["a.yml:1:401: nested more than 200 deep"]),
        ("? " * 5000, ["a.yml:1:401: nested more than 200 deep"]),
        ("# \n\r\na:\n  b: ['[', \"]\", " + "[" * 5000, ["a.yml:4:214: nested more than 200 deep"]),
        (
            "a: " + "[" * 199 + "@",
            [
                (
                    "a.yml:1:203: this is not YAML: "
                    "while scanning for the next token, found character that cannot start any token"
                )
            ],
        ),
        (LAUGHS, ["a.yml:7:12: the aliases up to here stand for more than 1,000,000 values"]),
        (MERGED_LAUGHS, ["a.yml:168:13: the aliases up to here stand for more than 1,000,000 values"]),
        (b"a: caf\xe9", ["a.yml:1:7: this is not UTF-8 (byte 0xe9): save the file as UTF-8"]),
        (b"a: 1\nb: \xff\n", ["a.yml:2:4: this is not UTF-8 (byte 0xff): save the file as UTF-8"]),
        ("a: 1".encode("utf-16"), ["a.yml:1:1: this is UTF-16: save the file as UTF-8"]),
        ("a: 1\nb: \x07", ["a.yml:2:4: a control character (U+0007) cannot stand in a YAML file"]),
        (b"\x00", ["a.yml:1:1: a control character (U+0000) cannot stand in a YAML file"]),
        (
            "a: [1\nb: 2\n",
            ["a.yml:2:2: this is not YAML: while parsing a flow sequence, did not find expected ',' or ']'"],
        ),
        ("a: 'x\n", ["a.yml:2:1: this is not YAML: while scanning a quoted scalar, found unexpected end of stream"]),
        (
            "a: @x",
            [
                (
                    "a.yml:1:4: this is not YAML: "
                    "while scanning for the next token, found character that cannot start any token"
                )
            ],
        ),
        (
            "web:\n  links:\n  - db\n ports: [80]\n",
            [
                (
                    "a.yml:4:2: this is not YAML: while parsing a block mapping, did not find expected key; "
                    "look at indentation and quotes here and in the line before"
                )
            ],
        ),
        ("%YAML 9.9\n---\na: 1", ["a.yml:1:1: this is not YAML: found incompatible YAML document"]),
    ],
)
def test_what_is_refused_and_how(data: str | bytes, told_then: list[str]) -> None:
    assert refusal(data) == told_then


def test_aliases_that_people_write_are_not_laughs() -> None:
    services = "".join(f"  s{n}: {{<<: *base, environment: *env}}\n" for n in range(3000))
    env = ", ".join(f"V{n}: {n}" for n in range(50))
    root = document(
        f"x-env: &env {{{env}}}\nx-base: &base {{image: x, deploy: {{replicas: 2}}}}\nservices:\n{services}"
    ).root
    services_read = root.entries["services"].value
    assert isinstance(services_read, Mapping)
    assert len(services_read.entries) == 3000


def test_many_duplicates_are_not_many_messages() -> None:
    assert len(refusal("a: 1\n" * 100_000)) == composer.MAX_PROBLEMS


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked.yml").write_text("a: 1")
    report = Report()
    missing, folder = str(tmp_path / "missing.yml"), str(tmp_path)
    assert read(missing, report) is None
    assert read(folder, report) is None
    assert read(f"{tmp_path}/locked.yml/x", report) is None
    assert told(report) == [
        f"{missing}: there is no such file",
        f"{folder}: this is a directory, not a file",
        f"{tmp_path}/locked.yml/x: it cannot be read (Not a directory)",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to try it as")
def test_a_file_without_permission() -> None:
    report = Report()
    with tempfile.NamedTemporaryFile(suffix=".yml") as file:  # not in tmp_path, which others cannot enter
        os.seteuid(NOBODY)
        try:
            assert read(file.name, report) is None
        finally:
            os.seteuid(0)
    assert told(report) == [f"{file.name}: it must not be read (permission denied)"]


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for size, fine in ((MAX_BYTES, True), (MAX_BYTES + 1, False)):
        path.touch()
        os.truncate(path, size)  # holes, no blocks
        assert (read(str(path), Report()) is not None) == fine


def test_an_endless_file_ends() -> None:
    report = Report()
    assert read("/dev/zero", report) is None
    assert told(report) == [f"/dev/zero: larger than {MAX_BYTES // 1024 // 1024} MiB"]


def test_ten_megabytes(tmp_path: Path) -> None:
    service = (
        '  s{n}:\n    image: registry.example/shop:{n}\n    links: ["s{n}:db"]\n'
        '    environment:\n      A_VARIABLE: "a value of some length"\n      ANOTHER: other\n'
        '    deploy:\n      replicas: 2\n      labels: {{a: b}}\n    command: [sh, -c, "sleep 1000"]\n'
    )
    path = tmp_path / "big.yml"
    size = 0
    with path.open("w") as file:
        file.write("services:\n")
        for number in itertools.count():
            size += file.write(service.format(n=number))
            if size > 10_000_000:
                break
    report = Report()
    began = time.process_time()
    source = read(str(path), report)
    assert source
    found = load(source, report)
    took = time.process_time() - began
    assert found
    services = found.root.entries["services"].value
    assert isinstance(services, Mapping)
    assert len(services.entries) == number + 1
    print(f"10 MB read in {took:.1f} s of processor time")
    # 2 s without the garbage collector, 5 s with it; Docker itself takes 12 s for such a file.
    assert took < 20


_WORDS = "a b services x-wireguard << &a *a &b *b : [ ] { } , ' | > # !x --- ... ? @ ` ~ é \\ \U0001f600 \ufeff"
_SPACED = (": ", "- ", "? ", "!!str ", "%YAML 1.1", '"', "\n", "\n  ", "\n    ", "\t", "\x85", "\u2028")
yaml_words = st.sampled_from([*_WORDS.split(" "), *_SPACED])


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(yaml_words, max_size=40).map("".join).map(str.encode) | st.binary(max_size=200))
@example(b"a: !!binary x")
@example(b"\xef\xbb\xbf\xef\xbb\xbfa: 1")
def test_no_bytes_make_a_traceback(data: bytes) -> None:
    report = Report()
    found = load(Source("a.yml", data, rereadable=True), report)
    assert (found is None) == bool(report.errors)
    for problem in told(report):
        assert problem.startswith("a.yml:")


documents = st.recursive(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(alphabet="abc<-", min_size=1, max_size=3).filter(lambda key: key != "<<"), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(alphabet="abc", min_size=1), documents, min_size=1), st.sampled_from([None, '"', "'"]))
def test_reading_agrees_with_pyyaml(value: dict[str, object], style: str | None) -> None:
    text = yaml.safe_dump(value, default_style=style, allow_unicode=True)

    def texts(found: object) -> object:
        if isinstance(found, dict):
            return {name: texts(inner) for name, inner in found.items()}
        return [texts(inner) for inner in found] if isinstance(found, list) else found

    # BaseLoader keeps every value as text, as we do.
    assert plain(document(text).root) == texts(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506 - texts only


@pytest.mark.parametrize("end", ["---\n", "---\n# nothing\n", "---\n---\n", "...\n", "--- ~x\n"])
def test_what_may_follow_the_document(end: str) -> None:
    report = Report()
    found = load(Source("a.yml", f"a: 1\n{end}".encode(), rereadable=True), report)
    if "x" in end:
        assert [str(error) for error in report.errors] == [
            "a.yml:2:1: a second document begins here: Docker reads only the first; put it in a file of its own"
        ]
    else:
        assert (report.errors, [*found.root.entries] if found else None) == ([], ["a"])


def test_the_version_of_yaml() -> None:
    report = Report()
    assert load(Source("a.yml", b"%YAML 1.1\n---\na: 1\n", rereadable=True), report)
    assert load(Source("b.yml", b"%YAML 1.2\n---\na: 1\n", rereadable=True), report) is None
    assert [str(error) for error in report.errors] == [
        "b.yml:1:1: Docker reads YAML 1.1 alone: take the line '%YAML 1.2' out"
    ]


def test_a_merge_key_that_stands_late() -> None:
    report = Report()
    text = b"x: &x {a: 1, b: 2}\ny:\n  a: 3\n  <<: *x\nz:\n  <<: *x\n  a: 4\n"
    assert load(Source("a.yml", text, rereadable=True), report)
    assert [str(warning) for warning in report.warnings] == [
        "a.yml:3:3: warning: Docker CLI 20.10 takes 'a' from '<<', newer ones what is written here: write '<<' first"
    ]
