#!/usr/bin/env bash
# Sets up everything from nothing and runs the tests.
#
#   tools/test.sh            the installed package, linters, the C++ tests, C programs against the installed library
#   tools/test.sh quick      the installed package and the Python tests only
#   tools/test.sh asan       the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   tools/test.sh tsan       the C++ tests under ThreadSanitizer
#   tools/test.sh fuzz       the fuzzers, half a minute each
#   tools/test.sh tidy       clang-tidy over the engine
#   tools/test.sh packages   the system packages that all of it needs
#
# Needs python3 (3.10+) with venv, and a C++20 compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

system_packages="g++ cmake ninja-build clang clang-format clang-tidy libgtest-dev pulseaudio libasound2-plugins libportaudio2 espeak-ng"
if [ "${1:-}" = packages ]; then
  echo "$system_packages"
  exit 0
fi

step() { printf '\n== %s\n' "$*"; }

root="$PWD"
work="${OMNI_TEST_DIR:-$root/build-test}"
mkdir -p "$work"

case "${1:-}" in
  asan | tsan | fuzz | tidy)
    cmake --preset "${1/tidy/release}" -B "$work/$1"
    cmake --build "$work/$1"
    ;;&
  asan | tsan)
    exec ctest --test-dir "$work/$1" --output-on-failure
    ;;
  tidy)
    git ls-files 'cpp/src/*.cpp' | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$work/$1"
    exit
    ;;
  fuzz)
    for name in gguf tokenizer; do
      mkdir -p "$work/corpus-$name"
      "$work/fuzz/cpp/tests/fuzz_$name" -seed=1 -max_total_time=30 -rss_limit_mb=2048 "$work/corpus-$name" "cpp/tests/corpus/$name"
    done
    exit
    ;;
esac

step "a new virtual environment, and the package as a user installs it"
rm -rf "$work/venv"
python3 -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" -m pip install --quiet --upgrade pip
"$python" -m pip install '.[dev]'

step "the Python tests, from another directory, so that the installed package is what runs"
(cd "$work" && "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -q "$root/tests")
if [ "${1:-}" = quick ]; then exit 0; fi

step "linters, formatters, types"
"$work/venv/bin/ruff" check .
"$work/venv/bin/ruff" format --check .
(cd python && "$work/venv/bin/mypy" --config-file ../pyproject.toml -p omni)
git ls-files '*.cpp' '*.h' '*.c' | xargs clang-format --dry-run --Werror

cmake="$work/venv/bin/cmake"
ctest="$work/venv/bin/ctest"
"$python" -m pip install --quiet cmake ninja

step "the C++ library, installed, and a C program built against it"
"$cmake" --preset release -B "$work/release" -DCMAKE_INSTALL_PREFIX="$work/prefix"
"$cmake" --build "$work/release"
"$ctest" --test-dir "$work/release" --output-on-failure
"$cmake" --install "$work/release"
(cd "$work" && OMNI_PREFIX="$work/prefix" CMAKE="$cmake" "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
  -q "$root/tests/test_c_interface.py")

step "all passed"
