"""The first process of a container: /bin/sh with a script that runs the job, ends it in time, and notes how it ended.

Nothing of ours is in the image. The container's volume at ROOT has the parameters, what the job says of its metrics, and STATE.
What is noted there are names of empty files, so that a full disk takes them too:

    cancel            put by who cancels, before the signal
    late, image       it did not begin: too late; or the image has another Python than the job asks for
    timeout, stopped  why it is being ended: its time is over; a signal from outside, such as the engine's own end
    oom               the kernel ended a process of the container for its memory
    exit.CODE[.WHY]   the job ended, with that code; WHY is cancel, timeout or stopped

A container that could not make its folders, or write its parameters, has nowhere to note it: it ends with UNREADY.
"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

__all__ = [
    "CANCEL", "CODE", "FOLDERS", "INPUTS", "METRICS", "OUTPUTS", "PARAMS", "ROOT", "SECRETS", "SHARED", "STATE", "SUCCESS",
    "UNREADY", "script",
]  # fmt: skip

ROOT = "/mlctl"
CODE = f"{ROOT}/code"
INPUTS = f"{ROOT}/inputs"
OUTPUTS = f"{ROOT}/outputs"
SHARED = f"{ROOT}/shared"
RUN = f"{ROOT}/run"
STATE = f"{RUN}/state"
CANCEL = f"{STATE}/cancel"
SUCCESS = f"{STATE}/exit.0"
SECRETS = f"{STATE}/secrets"
PARAMS = f"{RUN}/params.json"
METRICS = f"{RUN}/metrics/metrics.jsonl"
FOLDERS = (RUN, STATE, f"{RUN}/metrics")
"""Those that anybody may write to: the job may be another user than who makes them."""
UNREADY = 74

# $1 the last second, by the engine's clock, at which the job may begin, $2 timeout in seconds or nothing, $3 grace in seconds,
# $4 the parameters, or nothing where they were put into the container; then the job's words.
#
# A container that is `created` once that second is over is judged abandoned (states.py), and another attempt begins. So the clock
# is looked at here, by the last who could begin, and a shell that can't tell the time doesn't.
#
# Traps:
# - the first process gets only signals that it handles, so a cancel that comes before the traps left its mark;
# - the job is in the background, or `wait` could not be interrupted; then a shell makes it ignore SIGINT, which `env`
#   of coreutils 8.31 takes back;
# - a `wait` that a signal cut short is repeated; 127 is what it says of a job that an earlier one has collected;
# - -1 is every process of the container but the first and the one that sends;
# - the variables begin with `_`: one that the job's environment has, such as `timeout`, would reach the job changed.
_SCRIPT = r"""
_last=$1 _timeout=$2 _grace=$3 _params=$4 _state=STATE _path=$PATH _ending='' _woken=''; shift 4
PATH=$PATH:/bin:/usr/bin
(umask 0; mkdir -p FOLDERS) || exit UNREADY
[ -z "$_params" ] || printf %s "$_params" > PARAMS || exit UNREADY
_stop() {
  _woken=1
  [ -z "$_ending" ] || return 0
  _ending=1
  [ -e "$_state/cancel" ] || [ -e "$_state/timeout" ] || true > "$_state/stopped"
  kill -s TERM -- -1
  (trap '' TERM; sleep "$_grace"; kill -s KILL -- -1) </dev/null >/dev/null 2>&1 &
} 2>/dev/null
_noted() {
  _why=''
  for _each in stopped timeout cancel; do [ -e "$_state/$_each" ] && _why=.$_each; done
  true > "$_state/exit.$1$_why"
  exit "$1"
}
trap _stop TERM
trap _woken=1 INT HUP QUIT USR1 USR2
if ! [ "$(date +%s)" -le "$_last" ]; then rm -f "$_state/secrets"; true > "$_state/late"; exit 75; fi
if [ -e "$_state/cancel" ]; then rm -f "$_state/secrets"; _noted 143; fi
if [ -e "$_state/secrets" ]; then . "$_state/secrets"; rm -f "$_state/secrets"; fi
PREPARE
_env=$(command -v env)
case $1 in
  *=*) ;;
  *) "$_env" --default-signal=INT,QUIT true 2>/dev/null && set -- "$_env" --default-signal=INT,QUIT "$@" ;;
esac
if [ -n "$_timeout" ]; then
  (trap '' TERM; sleep "$_timeout" || exit; true > "$_state/timeout"; kill -s TERM 1) </dev/null >/dev/null 2>&1 &
fi
[ -z "$_ending" ] || _noted 143
PATH=$_path
"$@" </dev/null &
_job=$! _code=''
[ -z "$_ending" ] || kill -s TERM "$_job"
while :; do
  _woken=''
  wait "$_job"
  _now=$?
  [ "$_now" = 127 ] && [ -n "$_code" ] && break
  _code=$_now
  [ -n "$_woken" ] || break
done
PATH=$PATH:/bin:/usr/bin
if grep -qs '^oom_kill [1-9]' /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; then
  true > "$_state/oom"
fi
_noted "$_code"
"""

_PYTHON = r"""
_has=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null ||
  python -c 'import platform; print(platform.python_version())' 2>/dev/null)
case $_has. in
  WANTED.*) ;;
  *) echo "mlctl: the job asks for Python WANTED, and the image has ${_has:-none}" >&2; true > "$_state/image"; exit 78 ;;
esac
"""


def script(folders: Iterable[str], python: str = "") -> str:
    """For `/bin/sh -c`. `folders` are made first; `python` is a version that the image must have."""
    prepare = f"mkdir -p {' '.join(map(quote, folders))}"
    if python:
        prepare += _PYTHON.replace("WANTED", python)
    names = {
        "FOLDERS": " ".join(FOLDERS),
        "PARAMS": PARAMS,
        "STATE": STATE,
        "UNREADY": str(UNREADY),
        "PREPARE": prepare,
    }
    text = _SCRIPT
    for name, meaning in names.items():
        text = text.replace(name, meaning)
    return text
