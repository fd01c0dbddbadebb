#!/bin/sh
# Runs the unit and store suites with the lowest and with the newest libraries that pyproject.toml allows, each in an
# environment made for it: so the ranges are true, and not only the versions of the lock.
#
#   deploy/test-ranges.sh UV_PYTHON [PYTHON...]
#
# UV_PYTHON has the uv of requirements/lock.txt. PYTHON are the interpreters to try, by default python3.11 and whichever of
# python3.12, python3.13 and python3.14 are on this machine: the lowest with the first one only, the newest with each.
# RANGES ("lowest", "highest") and TESTS (default "tests/unit tests/store") narrow it. Exits with 1 when any suite fails,
# after all have run.
set -eu

[ $# -ge 1 ] || { echo "usage: test-ranges.sh UV_PYTHON [PYTHON...]" >&2; exit 1; }
uv="$1 -m uv"
shift
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then
    for candidate in python3.11 python3.12 python3.13 python3.14; do
        # It may be a stand-in that only says that there is none.
        "$candidate" -c '' 2>/dev/null && set -- "$@" "$candidate"
    done
fi

# The tests' own tools are those of the lock: they are no part of the ranges.
tools=$(sed -n 's/^\(hypothesis\|pytest\|pytest-timeout\|pytest-xdist\|spdx-tools\)==\([^ ]*\).*/\1==\2/p' requirements/test.txt)
failed=""
ranges="lowest highest"
for python; do
    for range in ${RANGES:-$ranges}; do
        name=$(basename "$python")-$range
        env=build/ranges/$name
        resolution=$range
        [ "$range" = highest ] || resolution=lowest-direct
        rm -rf "$env"
        mkdir -p build/ranges
        $uv pip compile --quiet --python "$python" --resolution "$resolution" --no-header --no-annotate \
            --output-file "$env.txt" pyproject.toml
        $uv venv --quiet --python "$python" "$env"
        # shellcheck disable=SC2086 # one word for each tool
        $uv pip install --quiet --python "$env/bin/python" --requirement "$env.txt" $tools
        $uv pip install --quiet --python "$env/bin/python" --no-deps --editable .
        echo "== $name: $(tr '\n' ' ' <"$env.txt")"
        # shellcheck disable=SC2086 # one word for each suite
        "$env/bin/python" -m pytest -q ${TESTS:-tests/unit tests/store} || failed="$failed $name"
    done
    # An old release has no wheels for a Python that came after it.
    ranges=highest
done
[ -z "$failed" ] || { echo "test-ranges: failed with:$failed" >&2; exit 1; }
