# Sourced by examples/quickstart.sh and tests/run.sh from the project's root: a virtual environment
# with the project in it. Uses the active one if there is one, else .venv, which it makes. What is
# already installed is left alone.
#   install_project EXTRAS    EXTRAS like [test], or empty

find_python() {
  local candidate
  for candidate in python3 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null
    then
      echo "$candidate"
      return
    fi
  done
  echo "error: expected Python 3.11 or 3.12, found $(python3 --version 2>&1 || echo none)" >&2
  return 1
}

install_project() {
  local extras="$1" python stamp
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
      python=$(find_python)
      "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
  fi
  # The environment's own folder remembers what was installed from which files.
  stamp="$VIRTUAL_ENV/vt_fairseq-$(cat setup.py constraints.txt examples/environment.sh \
    <(echo "$PWD $extras") | python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')"
  if [ -e "$stamp" ]; then
    return
  fi
  echo "installing vt_fairseq$extras into $VIRTUAL_ENV"
  torchaudio=$(python -m pip show --quiet torchaudio 2> /dev/null && echo there || true)
  python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
  # ve-fairseq asks for torchaudio, of which the package index has a CUDA build only. Nothing here
  # uses it, and beside a CPU build of torch it stops `import transformers` (a test dependency).
  if [ -z "$torchaudio" ]; then
    python -m pip uninstall --quiet --yes torchaudio
  fi
  touch "$stamp"
}
