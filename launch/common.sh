# shellcheck shell=bash
# Sourced by tpu_pod, gke and slurm; works with bash 3.2, which macOS ships. `program` names the script in messages.

dry_run=no
exec 3>&1 # where --dry-run prints, also from inside $(...)

say() { [ "$dry_run" = yes ] || printf '%s: %s\n' "${program:?}" "$*" >&2; }

# Ends with status 2: something the user must put right.
fail() {
  printf '%s: error: %s\n' "${program:?}" "$*" >&2
  exit 2
}

# The usage comment at the head of the script, without its hashes.
help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"
  exit 0
}

# quote WORD...: the words as one line for a shell.
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

# do_ COMMAND...: runs it, or prints it.
do_() {
  if [ "$dry_run" = yes ]; then quote "$@" >&3 && printf '\n' >&3; else "$@"; fi
}

# ask ANSWER COMMAND...: what the command prints; with --dry-run the command is printed and ANSWER assumed.
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

# The value of --FLAG VALUE or --FLAG=VALUE in `value`, and in `used` how many words it takes.
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
