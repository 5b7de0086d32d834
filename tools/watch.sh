#!/usr/bin/env bash
# Code shared by setup_env.sh and quickstart.sh; they set $log.

# watch STATUS COMMAND...: run a command with its output in the file $log, and
# show the line that STATUS prints: on a terminal in one line that changes, else
# every ${EVERY:-60} seconds. The command has a process group of its own, which
# ends with this script, whoever of the two gets the signal.
watch() {
  local status=$1 every=${EVERY:-60} shown='' line='' pid next code=0 signal
  shift
  next=$((SECONDS + (every < 10 ? every : 10)))
  set -m
  "$@" </dev/null >>"$log" 2>&1 &
  pid=$!
  set +m
  for signal in INT TERM HUP; do
    # shellcheck disable=SC2064
    trap "end_watch $signal $pid" $signal
  done
  while kill -0 $pid 2>/dev/null; do
    sleep 1
    if [ -t 1 ] || [ $SECONDS -ge $next ]; then
      line=$($status || true)
      if [ -z "$line" ] || [ "$line" = "$shown" ]; then continue; fi
      if [ -t 1 ]; then printf '\r\033[K  %s' "$line"; else echo "  $line"; fi
      shown=$line next=$((SECONDS + every))
    fi
  done
  wait $pid || code=$?
  trap - INT TERM HUP
  if [ -t 1 ] && [ -n "$shown" ]; then echo; fi
  return $code
}

end_watch() {
  trap '' INT TERM HUP
  kill -s "$1" -- "-$2" 2>/dev/null || true
  for _ in {1..100}; do # 20 s to end well
    kill -0 "$2" 2>/dev/null || break
    sleep 0.2
  done
  kill -s KILL -- "-$2" 2>/dev/null || true
  printf '\n%s: interrupted; run the same command to continue\n' "${0##*/}" >&2
  exit $((128 + $(kill -l "$1")))
}

# Print the end of $log and its name.
explain_failure() {
  echo "... the last lines of $log:" >&2
  tr '\r' '\n' <"$log" | tail -n 15 >&2
}
