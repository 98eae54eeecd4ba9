#!/usr/bin/env bash
# Sets up .venv on first use, with what the job needs, then runs it:
#   ./do train [options]   distributed training on a built-in graph (graphshard train)
#   ./do test  [options]   the tests (pytest)
#   ./do check             ruff, mypy and the tests: what CI runs
#   ./do versions SPEC     the tests of other versions of torch and PyG (.ci/versions)
#   ./do matrix            the same for every version that is promised, as a table (.ci/matrix)
#   ./do docs              the documentation site, in site/ (offline once installed)
#   ./do rooms             the folders and what they import, floor by floor
#   ./do COMMAND ...       any other graphshard command, such as: ./do verify gat karate
set -euo pipefail
cd "$(dirname "$0")"

# Install graphshard with some of its extras into .venv, unless that was done since they last changed.
install() {
    local extras=$1 ready=.venv/ready-$1
    if [ -e "$ready" ] && [ ! pyproject.toml -nt "$ready" ] && [ ! constraints.txt -nt "$ready" ]; then return; fi
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    echo "installing graphshard[$extras] into .venv ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
    touch "$ready"
}

job=${1:-help}
shift || true
case "$job" in
    test)
        install dev
        exec .venv/bin/python -m pytest -n 2 "$@"
        ;;
    check)
        install dev
        .venv/bin/ruff check .
        .venv/bin/ruff format --check .
        .venv/bin/mypy
        .venv/bin/mypy --config-file tests/mypy.ini tests
        exec "$0" test "$@"
        ;;
    matrix) exec .ci/matrix ;;
    versions) exec .ci/versions "$@" ;; # in environments of their own
    help) sed -n '2,10s/^# \{0,1\}//p' "$0" ;;
    rooms)
        install dev
        exec .venv/bin/python -m graphshard.tools.rooms
        ;;
    docs)
        install docs
        exec .venv/bin/python -W ignore -m sphinx -W -q -b html docs site "$@"
        ;;
    bench | coverage)
        install dev
        exec .venv/bin/graphshard "$job" "$@"
        ;;
    *)
        install run
        exec .venv/bin/graphshard "$job" "$@"
        ;;
esac
