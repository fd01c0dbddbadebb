"""Nothing that could be a secret stays in a text, and what helps does."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose_ext.observe.diagnosis.redaction import Redactor

CANARY = "canary-91d2"
KEY = base64.b64encode(bytes(range(7, 39))).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"password={CANARY}",
        f"DB_PASSWORD: {CANARY}",
        f"linkwire_secret = '{CANARY} {CANARY}'",
        json.dumps({"password": f'{CANARY} " {CANARY}'}),
        json.dumps({"event": json.dumps({"api_key": CANARY})}),
        f"--token={CANARY}, next",
        f"POSTGRES_PASSWORD={CANARY}\nmore",
        f"https://user:{CANARY}@registry.example/v2/",
        f"SWMTKN-1-{CANARY}-{CANARY}",
        f"Authorization: Bearer {CANARY}{CANARY}",
        f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN CERTIFICATE-----\n{CANARY}",
    ],
)
def test_canaries_are_removed(text: str) -> None:
    redact = Redactor()
    assert CANARY not in redact(text)
    assert redact.removed >= 1


@given(st.binary(min_size=32, max_size=32))
def test_no_key_in_base64_or_hex_stays(raw: bytes) -> None:
    written = (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), raw.hex(), raw.hex().upper())
    for text in written:
        for around in (text, f"key={text}", f'{{"key": "{text}"}}', f"opened {text}: bad", f"a/{text}/b"):
            assert text not in Redactor()(around)


def test_keys_without_padding_are_removed() -> None:
    rng = random.Random(54)  # noqa: S311 - the same keys in each run
    for _ in range(500):
        text = base64.b64encode(rng.randbytes(32)).decode().rstrip("=")
        assert text not in Redactor()(f"x {text} y")


def test_equal_keys_stay_comparable() -> None:
    redact = Redactor()
    one, other = redact(f"a {KEY}"), redact(f"b {KEY}")
    assert one[2:] == other[2:]
    assert one.startswith("a (key ")
    assert redact.removed == 2


@pytest.mark.parametrize(
    "text",
    [
        "image registry.example/linkwire@sha256:" + "0f" * 32,
        "/run/docker/netns/1-k3v9x1a7b2c4d5e6f7g8h9i0j/more/and/more",
        "endpoints/s3v9x1a7b2c4d5e6f7g8h9i0j/k3v9x1a7b2c4d5e6f7g8h9i0j",
        "shop_a-service-with-a-very-long-name-indeed-of-fifty-letters",
        'secret: "linkwire_link_seed_1"',
        '{"token": null, "passwords": []}',
        "task wired task=k3v9x1a7b2c4d5e6f7g8h9i0j 100.96.0.9:5432",
        "fd12:3456:789a::/96",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    redact = Redactor()
    assert redact(text) == text
    assert redact.removed == 0


def test_json_stays_json() -> None:
    document = {"a": [KEY, f"password={CANARY}"], "secret": CANARY, "n": 1, "inner": json.dumps({"token": CANARY})}
    text = Redactor()(json.dumps(document))
    assert CANARY not in text
    assert json.loads(text)["n"] == 1
