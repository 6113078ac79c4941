#!/usr/bin/env bash
# Installs, demonstrates, tests, upgrades and removes the gateway. `./install.sh --help` says how.
# Needs Debian 12 or newer, or Raspberry Pi OS (64-bit). What else it needs, it installs.
set -euo pipefail

started=$(date +%s.%N)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=/opt/v2g-gateway
etc=/etc/v2g-gateway
state=/var/lib/v2g-gateway
user=v2g-gateway
unit=v2g-gateway.service
# What an installed version consists of, and what its name is made from.
sources=(agent drivers firmware_attest hil_tests proto pyproject.toml README.md LICENSE)

usage() {
  cat <<EOF
usage: ./install.sh [install]                       install the service (as root); again: changes nothing
       ./install.sh upgrade                         the same after a change of the source: a new version beside
                                                    the old one, which stays in $prefix/versions
       ./install.sh uninstall [--purge]             remove the service; --purge removes keys and evidence too
       ./install.sh demo [--seconds N] [--json]     run the gateway on a simulated site, without installing it; N is 30
                                                    at least, and without it the story goes on until Ctrl-C
       ./install.sh test [PYTEST ARGUMENTS]         set up and run every check and test
EOF
}

say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $*"; exit 1; }
wrong_use() { say "install.sh: $*"; usage >&2; exit 2; }
elapsed() { awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }

# quietly MESSAGE COMMAND...: runs it without a word; if it fails, shows its last lines and ends with MESSAGE.
quietly() {
  local message=$1
  shift
  if ! ("$@") >"$scratch/log" 2>&1; then
    local kept
    kept=$(mktemp --tmpdir v2g-gateway-install.XXXXXX.log)
    cat "$scratch/log" >"$kept"
    tail -n 8 "$kept" | cut -c1-300 >&2
    die "$message; the lines above say why, all of it is in $kept"
  fi
}

# -- What every command needs -----------------------------------------------------------------------------------------

is_installed() {
  # Debian 13 calls some libraries NAMEt64.
  [[ $(dpkg-query -W -f='${Status}\n' "$1" "$1t64" 2>/dev/null || true) == *"install ok installed"* ]]
}

apt_get() {
  # A list that cannot be refreshed is no reason to stop when the packages can be had; a fresh boot upgrades itself.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get update -qq -o DPkg::Lock::Timeout=300 || true
     exec apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"' sh "$@"
}

# Prints the path of a Python that can run the gateway and make a venv. Debian's own comes first: the service must not
# depend on one in somebody's home folder.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# need PACKAGE...: installs those Debian packages that are missing, and finds or installs Python. Needs root only then.
need() {
  local missing=() package
  python=$(find_python) || set -- "$@" python3 python3-venv
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "this needs Debian or Raspberry Pi OS; missing: ${missing[*]}"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
      command -v sudo >/dev/null || die "installing Debian packages needs root, and there is no sudo: ${missing[*]}"
      as_root=(sudo)
    fi
    say "==> Debian packages: ${missing[*]}"
    quietly "apt-get could not install ${missing[*]} (is there a network?)" apt_get "${missing[@]}"
  fi
  python=$(find_python) || die "needs Python 3.11, 3.12 or 3.13 with venv; this system has $(python3 --version 2>&1)"
}

# make_venv FOLDER LOCK: a venv with exactly the locked packages; nothing to do when it is there already.
make_venv() {
  local venv=$1 lock=$2 stamp
  # Scripts of a venv name its path, so a moved folder is as stale as another lock.
  stamp="$(sha256sum "$lock" | cut -d' ' -f1) $venv $("$python" -c 'import sys; print(sys.version.split()[0])')"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.locked" 2>/dev/null)" = "$stamp" ]; then return 0; fi
  say "==> Python packages from $(basename "$lock") into $venv (about a minute)"
  rm -rf "$venv"
  quietly "$python could not make a venv in $venv" "$python" -m venv "$venv"
  # Wheels only: nothing is compiled here, and no package runs code of its own while it is installed.
  quietly "pip could not install the packages of $(basename "$lock") (is there a network?)" \
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes --only-binary :all: \
    -r "$lock"
  printf '%s\n' "$stamp" >"$venv/.locked"
}

# -- Demo and tests ---------------------------------------------------------------------------------------------------

demo() {
  need softhsm2
  make_venv "$here/.venv" "$here/requirements-dev.lock"
  local took
  took=$(elapsed)
  say "==> Ready after $took s"
  rm -rf "$scratch"
  cd "$here"
  exec "$here/.venv/bin/python" -m hil_tests.rig.demo --setup-seconds "$took" "$@"
}

run_tests() {
  need softhsm2 mosquitto swtpm swtpm-tools tpm2-tools libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-abrmd \
    libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0 dbus-daemon dbus-bin opensc gcc libc6-dev
  make_venv "$here/.venv" "$here/requirements-dev.lock"
  cd "$here"
  local bin=$here/.venv/bin
  # One command a line: what stands left of an && may fail unseen, in spite of set -e.
  say "==> Lint"
  "$bin/ruff" check .
  "$bin/ruff" format --check --quiet .
  say "==> Types"
  "$bin/mypy"
  say "==> Import contracts"
  "$bin/lint-imports" --no-logo
  say "==> Generated code is fresh"
  "$bin/python" -m hil_tests.generate_proto --check
  say "==> Tests"
  # One more than there are cores: tests on real parts wait, and with twice as many whole sites come too late for what
  # they promise. Whole files, so that their fixtures are made once, in the order of hil_tests/conftest.py.
  "$bin/python" -m pytest --numprocesses $(($(nproc) + 1)) --dist loadfile --no-loadscope-reorder "$@"
}

# -- The service ------------------------------------------------------------------------------------------------------

has_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# Prints the name of this version of the source: the same files and the same Python give the same name.
version_name() {
  local version digest
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/pyproject.toml" | head -n1)
  digest=$({
    "$python" -c 'import sys; print(sys.version_info[:2])'
    cd "$here"
    find "${sources[@]}" requirements.lock -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-12)
  printf '%s-%s' "$version" "$digest"
}

# put FILE MODE GROUP: standard input becomes FILE, whole or not at all. Sets `changed` unless it was that already.
put() {
  local file=$1 mode=$2 group=$3
  cat >"$scratch/put"
  if cmp -s "$scratch/put" "$file"; then return 0; fi
  install -m "$mode" -o root -g "$group" "$scratch/put" "$file.new"
  mv -f "$file.new" "$file"
  changed=1
}

# link TARGET NAME: a symbolic link, switched in one step. Sets `changed` unless it was that already.
link() {
  if [ "$(readlink "$2")" = "$1" ]; then return 0; fi
  ln -sfn "$1" "$2.new"
  mv -Tf "$2.new" "$2"
  changed=1
}

as_service_user() { setpriv --reuid="$user" --regid="$user" --init-groups "$@"; }

make_user_and_folders() {
  if ! id "$user" >/dev/null 2>&1; then
    say "==> System user $user"
    useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin "$user"
    changed=1
  fi
  # Serial lines to inverters and meters; lines of a GPIO chip, where the system has a group for them.
  local group
  for group in dialout gpio; do
    if getent group "$group" >/dev/null && ! id -nG "$user" | grep -qw "$group"; then usermod -aG "$group" "$user"; fi
  done
  install -d -m 0755 "$prefix" "$prefix/versions"
  install -d -m 0750 -o root -g "$user" "$etc"
  install -d -m 0700 -o "$user" -g "$user" "$state"
  # What is below belongs to the service's user, links included: root would follow one and give away where it leads.
  as_service_user mkdir -p -m 0700 "$state/token"
}

# make_version FOLDER: the gateway with its packages. Nothing to do when it is there, whole.
make_version() {
  local venv=$1
  if [ -f "$venv/.complete" ]; then return 0; fi
  say "==> Version $(basename "$venv")"
  make_venv "$venv" "$here/requirements.lock"
  as_service_user "$venv/bin/python" -c '' 2>/dev/null ||
    die "user $user may not run $python, which the service would need: install Debian's python3 and python3-venv"
  # Built from a copy, so that a checkout stays as it is.
  mkdir "$scratch/source"
  tar -C "$here" --exclude=__pycache__ -cf - "${sources[@]}" | tar -C "$scratch/source" -xf - --no-same-owner
  quietly "the gateway could not be built" "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --no-deps --no-build-isolation --no-index "$scratch/source"
  touch "$venv/.complete"
  changed=1
}

# make_identity FOLDER: the token, its keys, what the platform needs for enrolment, and a configuration. What is there
# is kept: the keys are the gateway's identity.
make_identity() {
  local venv=$1 config=$etc/gateway.toml made
  if [ -f "$config" ] && [ -f "$state/enrolment/uplink.csr" ]; then return 0; fi
  say "==> Token, keys and configuration"
  if [ ! -s "$etc/token-pin" ] && { [ ! -f "$config" ] || grep -q "^pin_secret = \"file:$etc/token-pin\"" "$config"; }; then
    [ -z "$(ls -A "$state/token")" ] || die "$etc/token-pin is missing, and the token in $state/token opens with no other
PIN: put the file back from a backup. Without it the keys are lost; ./install.sh uninstall --purge makes way for new ones"
    # The service's user reads it, and nobody else. It goes nowhere but into this file.
    (umask 077 && od -An -N12 -tx1 /dev/urandom | tr -d ' \n' >"$etc/token-pin.new")
    chown "$user:$user" "$etc/token-pin.new"
    # On the disk before a token depends on it: without its PIN the keys are lost.
    sync "$etc/token-pin.new"
    mv -f "$etc/token-pin.new" "$etc/token-pin"
  fi
  # The configuration's folder is root's, so that the service cannot change what it is told.
  made=$config
  if [ ! -f "$config" ]; then
    made=$state/gateway.toml.new
    rm -f "$made"
    set -- --pin-secret "file:$etc/token-pin"
  else
    set --
  fi
  SOFTHSM2_CONF=$etc/softhsm2.conf as_service_user "$venv/bin/v2g-gateway" init --state-dir "$state" \
    --config-out "$made" "$@" | sed "s|$made|$config|" >&2 ||
    die "the token and its keys could not be made; the lines above say why"
  if [ "$made" != "$config" ]; then
    # Read as the user that wrote it: by now it may be a link to what only root may read.
    as_service_user cat "$made" >"$scratch/config" || die "$made cannot be read by $user, who made it"
    put "$config" 0640 "$user" <"$scratch/config"
    rm -f "$made"
  fi
  changed=1
}

install_service() {
  [ "$(id -u)" -eq 0 ] || die "installing the service needs root: sudo ./install.sh"
  # A root with a narrow umask would install what the service's user cannot read; and its folder may be closed to it.
  umask 022
  cd /
  need softhsm2
  changed=0
  local name venv before
  name=$(version_name)
  venv=$prefix/versions/$name
  before=$(readlink "$prefix/current" || true)

  make_user_and_folders
  make_version "$venv"
  put "$etc/softhsm2.conf" 0644 root <<EOF
directories.tokendir = $state/token
objectstore.backend = file
log.level = ERROR
slots.removable = false
EOF
  make_identity "$venv"
  if [ "$before" != "$venv" ]; then
    # A version that cannot read the configuration must not take the place of one that runs.
    as_service_user "$venv/bin/v2g-gateway" config check --config "$etc/gateway.toml" >/dev/null ||
      die "version $name refuses the configuration, as said above.${before:+ The version before stays in use.}"
  fi
  link "$venv" "$prefix/current"
  put /usr/local/bin/v2g-gateway 0755 root <<EOF
#!/bin/sh
# Runs the installed version with the gateway's own token. What writes to token and state is done as the service's
# user: a file of root's among them would lock the service out. Who names other files means another gateway.
export SOFTHSM2_CONF="\${SOFTHSM2_CONF:-$etc/softhsm2.conf}"
if [ "\$(id -u)" -eq 0 ]; then
  case "\$*" in
    run\ --config?$etc/gateway.toml*)
      exec setpriv --reuid=$user --regid=$user --init-groups $prefix/current/bin/v2g-gateway "\$@" ;;
    *--config* | *--state-dir*) ;;
    run | run\ * | init | init\ * | identity | identity\ * | enroll | enroll\ *)
      exec setpriv --reuid=$user --regid=$user --init-groups $prefix/current/bin/v2g-gateway "\$@" ;;
  esac
fi
exec $prefix/current/bin/v2g-gateway "\$@"
EOF
  install -d /etc/systemd/system/multi-user.target.wants
  put "/etc/systemd/system/$unit" 0644 root <"$here/systemd/$unit"
  # What `systemctl enable` does; an image that is prepared without systemd boots with it.
  link "/etc/systemd/system/$unit" "/etc/systemd/system/multi-user.target.wants/$unit"

  if has_systemd; then
    [ "$changed" -eq 0 ] || systemctl daemon-reload
    if [ "$changed" -eq 1 ] || ! systemctl is-active --quiet "$unit"; then
      say "==> Starting the service"
      systemctl restart "$unit" || die "the service does not start: journalctl -u $unit says why.${before:+
To go back to the version before: ln -sfn $before $prefix/current && systemctl restart $unit}"
    fi
  fi
  report "$name" "$before"
}

# report NAME BEFORE: what there is now, and what to do next.
report() {
  if [ "$changed" -eq 0 ]; then
    say "==> $1 is installed already; nothing changed."
  elif [ -z "$2" ]; then
    say "==> Installed $1 in $(elapsed) s."
    say "    Next: describe the site in $etc/gateway.toml, check it with: v2g-gateway config check"
    say "    and make the keys of settled devices with: sudo v2g-gateway init"
  elif [ "$2" != "$prefix/versions/$1" ]; then
    say "==> Upgraded to $1 in $(elapsed) s; the version before stays in $2."
  else
    say "==> $1 was installed already; what was missing or changed is right again."
  fi
  if has_systemd; then
    say "    The service runs: v2g-gateway status, or systemctl status $unit"
  else
    say "    systemd does not run here (a container or an image): everything is installed, nothing was started."
    say "    At the next boot with systemd the service starts. To run it by hand, as root: v2g-gateway run"
  fi
}

uninstall() {
  [ "$(id -u)" -eq 0 ] || die "removing the service needs root: sudo ./install.sh uninstall"
  if has_systemd && [ -f "/etc/systemd/system/$unit" ]; then systemctl disable --now --quiet "$unit"; fi
  if id "$user" >/dev/null 2>&1; then
    local running
    running=$(find /proc -mindepth 1 -maxdepth 1 -name '[0-9]*' -user "$user" -printf '%f ' 2>/dev/null || true)
    [ -z "$running" ] || die "the gateway still runs, started by hand; end it first: kill $running"
  fi
  rm -f "/etc/systemd/system/$unit" "/etc/systemd/system/multi-user.target.wants/$unit" /usr/local/bin/v2g-gateway
  if has_systemd; then systemctl daemon-reload; fi
  rm -rf "$prefix"
  if [ "${1:-}" = --purge ]; then
    rm -rf "$etc" "$state"
    if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
    say "==> Removed, with configuration, keys and evidence."
  elif [ -d "$etc" ] || [ -d "$state" ]; then
    say "==> Removed. Configuration ($etc), keys and evidence ($state) are kept; --purge removes them too."
  else
    say "==> Removed."
  fi
}

main() {
  local command=${1:-install}
  [ $# -eq 0 ] || shift
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  case $command in
    install | upgrade)
      [ $# -eq 0 ] || wrong_use "$command takes no arguments: $*"
      install_service
      ;;
    uninstall)
      case "$*" in "" | --purge) ;; *) wrong_use "uninstall takes --purge or nothing: $*" ;; esac
      uninstall "$@"
      ;;
    demo) demo "$@" ;;
    test) run_tests "$@" ;;
    -h | --help | help) usage ;;
    *) wrong_use "there is no command $command" ;;
  esac
}

# A test may read this file for one of its functions.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
