#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Checks what the build needs from the system; installs it with apt where it may.
#
#   tools/system.sh [PYTHON]
#
# Quick and silent when nothing is missing, and then needs no network. As root on
# Debian or Ubuntu it installs the missing packages; else it lists them and fails.
# Pip's packages are not its business: those go into .venv (see the Makefile).
set -u
python=${1:-python3}
missing=()

need() { # need PACKAGE... if the last command failed
    local status=$?
    [ $status -eq 0 ] || missing+=("$@")
}

have_clang() {
    "${CC:-clang}" --version 2>/dev/null | grep -q clang && return
    compgen -c clang- | grep -qE '^clang-[0-9]+$' && return
    [ -x "${SWIFT_TOOLCHAIN:-/opt/swift}/usr/bin/clang" ]
}

have_header() { # have_header NAME PATTERN...
    local name=$1 file
    shift
    for file in $(compgen -G "$1/$name" || true) $(compgen -G "${2:-$1}/$name" || true); do
        [ -e "$file" ] && return 0
    done
    return 1
}

check() {
    missing=()
    have_clang; need clang
    command -v ld >/dev/null && command -v ar >/dev/null; need binutils
    have_header stdio.h /usr/include; need libc6-dev
    if [ "$(uname -s)" = Linux ]; then
        have_header Foundation/Foundation.h /usr/include/GNUstep '/usr/include/*/GNUstep'; need libgnustep-base-dev
        have_header objc/objc.h '/usr/lib/gcc/*/*/include' /usr/include; need gobjc
    fi
    command -v "$python" >/dev/null
    if [ $? -ne 0 ]; then
        missing+=(python3 python3-venv python3-dev)
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null; need python3-venv
        "$python" -c 'import os, sys, sysconfig as s
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' 2>/dev/null; need python3-dev
    fi
}

check
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null || {
        echo "apt-get could not install: ${missing[*]}" >&2
        exit 1
    }
    check
fi
if [ ${#missing[@]} -ne 0 ]; then
    {
        echo "The build needs more from this system. On Debian or Ubuntu:"
        echo
        echo "    sudo apt-get install ${missing[*]}"
        [ "$python" = python3 ] || echo "(the Python looked at was $python)"
    } >&2
    exit 1
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or later is needed, $python is $("$python" --version). Name another: make PYTHON=..." >&2
    exit 1
}
