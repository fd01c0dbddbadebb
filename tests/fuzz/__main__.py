"""Fuzzing, for `make fuzz`: each target from its saved inputs, and what it found is saved.

    python -m tests.fuzz SECONDS [TARGET...]

Python needs what requirements/fuzz.txt names. An input that makes a target fail is saved as `failed-...`, so that the
unit tests fail until the fault is mended.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

FUZZ = """
import sys, warnings
import atheris
with atheris.instrument_imports(include=["agent", "compose_ext", "mesh"]):
    from tests.fuzz.targets import TARGETS
warnings.simplefilter("ignore")
run = TARGETS[sys.argv.pop(1)].run
atheris.Setup(sys.argv, run)
atheris.Fuzz()
"""


def fuzz(target: str, seconds: int) -> bool:
    """Fuzz one target; whether nothing failed."""
    with tempfile.TemporaryDirectory() as folder:
        begun, failed = Path(folder, "inputs"), Path(folder, "failed")
        begun.mkdir()
        failed.mkdir()
        for name, data in corpus.saved(target).items():
            (begun / name).write_bytes(data)
        options = [f"-max_total_time={seconds}", f"-max_len={corpus.MAX_BYTES}", f"-artifact_prefix={failed}/"]
        argv = [sys.executable, "-c", FUZZ, target, *options, "-timeout=20", "-verbosity=0", str(begun)]
        done = subprocess.run(argv, check=False)
        for path in failed.iterdir():
            kept = corpus.FOLDER / target / f"failed-{path.name[-16:]}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)
            print(f"{target}: FAILED, see above; the input is {kept}")
        if done.returncode:
            return False
        before = len(corpus.saved(target))
        new = corpus.extend(target, (path.read_bytes() for path in begun.iterdir()))
    print(f"{target}: nothing failed; {before} saved inputs replayed, {len(new)} added", flush=True)
    return True


def main(seconds: int, targets: list[str]) -> int:
    """Fuzz each target; the exit code."""
    if unknown := [name for name in targets if name not in TARGETS]:
        sys.exit(f"there is no target {', '.join(unknown)}; the targets are: {', '.join(TARGETS)}")
    good = [fuzz(target, seconds) for target in targets or TARGETS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    if not sys.argv[1:] or not sys.argv[1].isdigit():
        sys.exit("usage: python -m tests.fuzz SECONDS [TARGET...]")
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
