# shellcheck shell=bash
# Sourced by tpu_pod, gke and slurm; works with bash 3.2, which macOS ships. `program` names the script in messages.

dry_run=no
exec 3>&1 # where --dry-run prints, also from inside $(...)

say() { [ "$dry_run" = yes ] || printf '%s: %s\n' "${program:?}" "$*" >&2; }

# Ends with status 2: an error that the user must correct.
fail() {
  printf '%s: error: %s\n' "${program:?}" "$*" >&2
  exit 2
}

# Prints the usage comment at the head of the script, without the hashes.
help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"
  exit 0
}

# quote WORD...: prints the words as one shell command line.
quote() {
  local word line=""
  for word in "$@"; do
    case $word in
    "" | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    line="$line $word"
  done
  printf '%s' "${line# }"
}

# do_ COMMAND...: runs the command, or prints it with --dry-run.
do_() {
  if [ "$dry_run" = yes ]; then quote "$@" >&3 && printf '\n' >&3; else "$@"; fi
}

# ask ANSWER COMMAND...: prints the output of the command; with --dry-run, shows the command and prints ANSWER.
ask() {
  local answer=$1
  shift
  if [ "$dry_run" = yes ]; then
    quote "$@" >&3 && printf '\n' >&3
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}

need() {
  [ "$dry_run" = yes ] || command -v "$1" >/dev/null || fail "$1 is not on PATH; $2"
}

# whole FLAG VALUE SMALLEST
whole() {
  case $2 in "" | *[!0-9]*) fail "$1 $2 must be a whole number" ;; esac
  [ "$2" -ge "$3" ] || fail "$1 $2 is less than $3"
}

# Sets `value` to the value of --FLAG VALUE or --FLAG=VALUE, and `used` to the number of words.
take() {
  case $1 in
  *=*) value=${1#*=} used=1 ;;
  *)
    [ $# -ge 2 ] || fail "$1 needs a value"
    # shellcheck disable=SC2034  # both are read by the scripts
    value=$2 used=2
    ;;
  esac
}
