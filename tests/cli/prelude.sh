# What the RUN lines of the tests may use. $PID is the victim, $RELIVE_RUNTIME_DIR the test's own.

# Waits for a condition, some seconds at most.
until_true() {
  local i
  for ((i = 0; i < 1000; i++)); do
    if "$@"; then return 0; fi
    sleep 0.02
  done
  echo "waited in vain: $*" >&2
  return 99
}

start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20; }
stem() { echo "$RELIVE_RUNTIME_DIR/$PID-$(start_time "$PID")"; }

# The pid of the victim's keeper, from its command line.
keeper() {
  local file words
  for file in /proc/[0-9]*/cmdline; do
    mapfile -d '' -t words <"$file" 2>/dev/null || continue
    if [[ ${words[1]:-} == keeper && ${words[2]:-} == "$PID" ]]; then
      file=${file#/proc/}
      echo "${file%/cmdline}"
      return 0
    fi
  done
  return 1
}

gone() { [[ ! -e /proc/$1 ]] || [[ $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1) == [ZX] ]]; }
state_is() { [[ $(sed 's/.*) //' "/proc/$1/stat" | cut -c1) == "$2" ]]; }
comm_is() { [[ $(cat "/proc/$1/comm") == "$2" ]]; }
no_files() { [[ -z $(ls "$RELIVE_RUNTIME_DIR") ]]; }
clean() { ! grep -q relive "/proc/$1/maps"; }
holds_lock() { [[ -s $(stem).lock ]] && grep -q "^pid $1 " "$(stem).lock"; }
# A command that has asked its keeper stands in read(2).
reads() { grep -q '^0 ' "/proc/$1/syscall"; }

# Runs a command whose failure is expected, with this exit status.
exits() {
  local want=$1 got=0
  shift
  "$@" || got=$?
  if [[ $got -ne $want ]]; then
    echo "exit status $got, want $want: $*" >&2
    return 98
  fi
}
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"; }
