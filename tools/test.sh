#!/usr/bin/env bash
# Sets up everything from nothing and runs the tests.
#
#   tools/test.sh            everything: the installed package, linters, the C++ tests, C programs against the installed
#                            library, and the four steps below; about half an hour on two cores
#   tools/test.sh quick      the installed package and the Python tests only
#   tools/test.sh asan       the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   tools/test.sh tsan       the C++ tests under ThreadSanitizer
#   tools/test.sh fuzz       the fuzzers, 20 seconds each
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

# One fetched copy of ggml serves every build.
ggml="${OMNI_GGML_SOURCE:-$work/ggml}"

build() {  # preset, options
  local python=python3
  if [ -x "$work/venv/bin/python" ]; then python="$work/venv/bin/python"; fi  # has pip in any case
  [ -f "$ggml/CMakeLists.txt" ] || "$python" ggml/fetch.py "$ggml"
  cmake --preset "$1" -B "$work/$1" -DOMNI_GGML_SOURCE="$ggml" "${@:2}"
  cmake --build "$work/$1"
}

asan() {
  step "the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  build fuzz -DOMNI_BUILD_TESTS=ON  # the fuzzers' build has these sanitizers anyway
  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 "$work/fuzz/cpp/tests/omni_tests" --gtest_brief=1
}

tsan() {
  step "the C++ tests under ThreadSanitizer"
  build tsan
  # Its shadow memory wants the addresses that programs get without randomisation; not every container allows that.
  local fixed=""
  if setarch -R true 2> /dev/null; then fixed="setarch -R"; fi
  if ! $fixed "$work/tsan/cpp/tests/omni_tests" --gtest_list_tests > /dev/null; then
    echo "left out: this system gives programs addresses that ThreadSanitizer can't use"
    return
  fi
  TSAN_OPTIONS=halt_on_error=1 $fixed "$work/tsan/cpp/tests/omni_tests" --gtest_brief=1
}

fuzz() {
  step "the fuzzers"
  build fuzz -DOMNI_BUILD_TESTS=ON
  for name in gguf tokenizer; do
    mkdir -p "$work/corpus-$name"
    "$work/fuzz/cpp/tests/fuzz_$name" -seed=1 -max_total_time=20 -rss_limit_mb=2048 -print_final_stats=1 \
      "$work/corpus-$name" "cpp/tests/corpus/$name"
  done
}

tidy() {
  step "clang-tidy"
  build release
  git ls-files 'cpp/src/*.cpp' | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$work/release"
}

case "${1:-}" in
  asan | tsan | fuzz | tidy)
    "$1"
    exit
    ;;
  "" | quick) ;;
  *)
    echo "unknown step: $1" >&2
    exit 2
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

if ! command -v cmake > /dev/null || ! command -v ninja > /dev/null; then
  "$python" -m pip install --quiet cmake ninja
  PATH="$work/venv/bin:$PATH"
fi

step "the C++ library, installed, and a C program built against it"
build release -DCMAKE_INSTALL_PREFIX="$work/prefix"
ctest --test-dir "$work/release" --output-on-failure
cmake --install "$work/release"
(cd "$work" && OMNI_PREFIX="$work/prefix" CMAKE=cmake "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
  -q "$root/tests/test_c_interface.py")

asan
fuzz
tsan
tidy

step "all passed"
