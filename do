#!/usr/bin/env bash
# Sets up .venv on first use, then runs one job:
#   ./do train [options]   distributed training on a built-in graph (graphshard train)
#   ./do test  [options]   the tests (pytest)
#   ./do check             ruff, mypy and the tests: what CI runs
#   ./do versions SPEC     the tests of other versions of torch and PyG (.ci/versions)
#   ./do COMMAND ...       any other graphshard command, such as: ./do verify gat karate
set -euo pipefail
cd "$(dirname "$0")"

# Environments of their own.
if [ "${1:-}" = versions ]; then exec .ci/versions "${@:2}"; fi

if [ ! -x .venv/bin/graphshard ] || [ pyproject.toml -nt .venv/ready ] || [ constraints.txt -nt .venv/ready ]; then
    "${PYTHON:-python3}" -m venv .venv
    echo "installing graphshard and its tests into .venv ..." >&2
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
    touch .venv/ready
fi

job=${1:-help}
shift || true
case "$job" in
    test) exec .venv/bin/python -m pytest -n 2 "$@" ;;
    check)
        .venv/bin/ruff check .
        .venv/bin/ruff format --check .
        .venv/bin/mypy
        exec "$0" test --cov --cov-report=term --cov-fail-under=90 "$@"
        ;;
    help) sed -n '2,7s/^# \{0,1\}//p' "$0" ;;
    *) exec .venv/bin/graphshard "$job" "$@" ;;
esac
