# Sourced by demo, test and .ci/run: sets `root` (the repository) and `python` (an interpreter that has the package).
# HIPPO_PYTHON names an existing environment's interpreter; otherwise .venv at the repository's root is made and used.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

install_package() { # $1: extras, such as [dev]
    (cd "$root" && "$python" -m pip install --quiet --disable-pip-version-check -e ".$1") >&2
}

prepare_python() { # $1: extras, $2: a module that only these extras bring
    if [[ -n ${HIPPO_PYTHON:-} ]]; then
        python=$(command -v "$HIPPO_PYTHON") || {
            echo "error: HIPPO_PYTHON=$HIPPO_PYTHON is no interpreter; name the environment's python" >&2
            exit 1
        }
        python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
        local installed
        installed=$(cd / && "$python" -c "import hippo_nnunet, $2, pathlib
print(pathlib.Path(hippo_nnunet.__file__).resolve().parents[1])" 2>/dev/null) || installed=
        [[ $installed == "$(cd "$root" && pwd -P)" ]] || install_package "$1"
        return
    fi
    python=$root/.venv/bin/python
    if [[ ! -x $python ]]; then
        echo "making $root/.venv" >&2
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: python3 is $(python3 --version 2>&1); Python 3.10 or newer is needed" >&2
            exit 1
        }
        python3 -m venv "$root/.venv"
    fi
    local stamp=$root/.venv/.installed$1
    if [[ ! -e $stamp || $root/pyproject.toml -nt $stamp ]]; then
        echo "installing hippo_nnunet$1 and what it needs into $root/.venv (minutes the first time)" >&2
        install_package "$1"
        touch "$stamp"
    fi
}

hippo() {
    "$python" -m hippo_nnunet.cli.main "$@"
}
