# Sourced by scripts that test another build of the native modules, from the top of the sources.
venv=$(realpath "${VENV:-.venv}")

# overlay PLACE: an environment there with all packages of $venv but pyddl, which `modules` adds. Sets python, packages.
overlay() {
    python=$1/bin/python
    [[ -e $python ]] || "$venv/bin/python" -m venv --without-pip "$1" || return
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$packages/others.pth"
}

# modules TARGET [CMAKE OPTION...]: build a target (all, or the MPI module alone: then the other one is that of $venv),
# and put it with the Python sources into the environment of `overlay`.
modules() {
    local target=$1 build=${packages%/lib/*}/build component=()
    shift
    PATH=$venv/bin:$PATH cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release "$@" \
        -DPython_EXECUTABLE="$venv/bin/python" -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)" \
        -DCMAKE_MODULE_PATH="$("$venv/bin/python" -c 'import cython_cmake as c; print(c.__path__[0] + "/cmake")')" \
        >"$packages/build.log" 2>&1 || { cat "$packages/build.log"; return 1; }
    PATH=$venv/bin:$PATH cmake --build "$build" --target "$target" >"$packages/build.log" 2>&1 ||
        { cat "$packages/build.log"; return 1; }
    rm -rf "$packages/pyddl" && cp -r pyddl "$packages" || return
    if [[ $target == _mpi ]]; then
        component=(--component mpi)
        cp "$("$venv/bin/python" -c 'from pyddl import _core; print(_core.__file__)')" "$packages/pyddl" || return
    fi
    PATH=$venv/bin:$PATH cmake --install "$build" --prefix "$packages" "${component[@]}" >/dev/null
}

# away WORK: go to a copy of the tests there, since beside them would lie the sources' own package, without modules.
away() { cp -r tests examples docs README.md pyproject.toml "$1" && cd "$1"; }
