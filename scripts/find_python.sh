# Sourced: find_python sets $python to one that has quantize, or says how to install it.
# $here is the folder of the scripts, set by whoever sources this.
# -P keeps a folder called quantize in the current directory from being taken for the package.
# shellcheck shell=bash

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ] && ! command -v "$PYTHON" >/dev/null 2>&1; then
        echo "$(basename "$0"): PYTHON=$PYTHON is no command; name a Python that has quantize" >&2
        exit 2
    fi
    for candidate in "${PYTHON:-}" python "${here:?}/../.venv/bin/python"; do
        [ -n "$candidate" ] || continue
        if "$candidate" -P -c 'import quantize.cli' >/dev/null 2>&1; then
            # shellcheck disable=SC2034  # read by the script that sources this
            python=$candidate
            return
        fi
        if [ "$candidate" = "${PYTHON:-}" ]; then
            echo "$(basename "$0"): PYTHON=$PYTHON has no quantize; install it there: $PYTHON -m pip install '.[inc]'" >&2
            exit 2
        fi
    done
    echo "$(basename "$0"): no Python with quantize found; install it: make install, or: pip install '.[inc]'" >&2
    exit 2
}
