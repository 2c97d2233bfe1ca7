#!/bin/sh
# Build the runner: build.sh TARGET OUTPUT
#
#   native    for this machine, with $CC (default: cc)
#   sanitize  the same with the address and undefined-behaviour sanitizers, for tests
#   aarch64   for boards with glibc 2.17 or newer, cross-compiled with the program $ZIG (default: python3 -m ziglang)
#   x86_64    the same for 64-bit PCs
#   android   for phones (aarch64, Android 7 or newer), with the NDK in $ANDROID_NDK_HOME
#
# The android target has not been run where this script was written: no NDK was at hand there.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 native|sanitize|aarch64|x86_64|android OUTPUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
optimise=-O2
case $1 in
native) set -- "$2" "${CC:-cc}" ;;
sanitize)
    optimise='-O1 -g -fno-omit-frame-pointer'
    set -- "$2" "${CC:-cc}" -fsanitize=address,undefined -fno-sanitize-recover=all
    ;;
aarch64 | x86_64)
    if [ -n "${ZIG:-}" ]; then
        set -- "$2" "$ZIG" cc -target "$1-linux-gnu.2.17" -s
    else
        set -- "$2" python3 -m ziglang cc -target "$1-linux-gnu.2.17" -s
    fi
    ;;
android)
    [ -n "${ANDROID_NDK_HOME:-}" ] || { echo "set ANDROID_NDK_HOME to the folder of an Android NDK" >&2; exit 1; }
    for compiler in "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin/aarch64-linux-android24-clang; do
        [ -x "$compiler" ] || { echo "no aarch64-linux-android24-clang in $ANDROID_NDK_HOME" >&2; exit 1; }
        set -- "$2" "$compiler" -s
        break
    done
    ;;
*) echo "unknown target $1" >&2; exit 2 ;;
esac
output=$1
shift
# -ffp-contract=off: inputs must have the same bits everywhere.
# shellcheck disable=SC2086
exec "$@" $optimise -std=c11 -D_GNU_SOURCE -fPIE -pie -pthread -ffp-contract=off -fstack-protector-strong \
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wstrict-prototypes \
    -Wmissing-prototypes -Wformat=2 -Wvla -Wundef -Werror \
    -o "$output" "$here"/*.c -ldl
