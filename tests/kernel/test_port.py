"""The output's end is found however the guest's writes are cut, whatever the token and the output are."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kernel.port import OutputPort

# Bytes that look like the end are likelier than chance would have them.
OTHER_TOKEN = "0" * 32
OUTPUTS = st.lists(st.sampled_from([b"\0", b"0", b"a\n", b"\xc3", b"\xa4", f"\0{OTHER_TOKEN} 1".encode()])).map(
    b"".join
)
TOKENS = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda token: token != OTHER_TOKEN)


@settings(deadline=None)  # a busy machine is no failure
@given(OUTPUTS, TOKENS, st.integers(0, 255), st.integers(1, 60))
@example(b"text\n", "01" * 16, 0, 1)  # \0 and a digit in a pattern are an octal number
def test_output_and_code_come_apart_at_every_cut(output: bytes, token: str, code: int, size: int) -> None:
    written = output + f"\0{token} {code}\0".encode()
    with tempfile.TemporaryDirectory() as folder:
        stream = io.StringIO()
        port = OutputPort(Path(folder) / "output", stream, token=token)
        with port.path.open("ab", buffering=0) as guest:
            for start in range(0, len(written), size):
                assert port.returncode is None
                guest.write(written[start : start + size])
                port.read()
        port.close()
    assert port.returncode == code
    assert port.text == stream.getvalue() == output.decode(errors="replace")


@settings(deadline=None)  # a busy machine is no failure
@given(OUTPUTS)
def test_output_without_an_end_is_all_there(output: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        port = OutputPort(Path(folder) / "output", None, token="0" * 31 + "1")
        with port.path.open("ab", buffering=0) as guest:
            guest.write(output)
        port.read()
        port.read(final=True)
        port.close()
    assert port.returncode is None
    assert port.text == output.decode(errors="replace")
