#!/bin/sh
# Every test, as `make test` runs them: first what can share the machine, in several processes, then
# what measures times or takes all of it, alone. Arguments go to pytest.
# TEST_PROCESSES: of the first part (2: a stack with its servers keeps another core busy).
# COVERAGE=1: also says which lines were reached. Tracing makes Python 2.9 times as slow.
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
# Hundreds of processes are started. One that has to compile what it imports takes 1.9 s of CPU until
# it serves instead of 0.8 s, and a busy machine makes 20 s of that.
unset PYTHONDONTWRITEBYTECODE
none=5 # pytest's exit code where it found no test: one of the parts may be empty, not both

if [ -n "${COVERAGE:-}" ]; then
    "$python" -m coverage erase
    set -- --cov --cov-append --cov-report= "$@"
fi
together_marks="not faults and not alone"
alone_marks="alone and not faults"

# Two processes and their servers want more than two cores at times. What fails then, and only that,
# is tried once more with the machine to itself; what fails again has failed. The same for what runs
# alone: on a machine that somebody else keeps busy for a moment, times are measured that say nothing.
once_more() {
    marks=$1
    shift
    echo "what failed is tried once more, alone"
    "$python" -m pytest --last-failed --last-failed-no-failures none -m "$marks" "$@"
}

# In the order of their names, not those with the most tests first: the last ones are short then, and
# no process works long after the other has ended.
"$python" -m pytest --numprocesses "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder \
    -m "$together_marks" "$@"
together=$?
if [ "$together" -eq 1 ]; then
    once_more "$together_marks" "$@"
    together=$?
fi
[ "$together" -eq 0 ] || [ "$together" -eq "$none" ] || exit "$together"

if [ "$#" -eq 0 ]; then
    # To read all 250 files again for these takes 6 s; tests/failures marks its own.
    set -- tests/failures $(grep -rl --include='test_*.py' --exclude-dir=failures 'mark\.alone' tests)
fi
"$python" -m pytest -m "$alone_marks" "$@"
alone=$?
if [ "$alone" -eq 1 ]; then
    once_more "$alone_marks" "$@"
    alone=$?
fi
[ "$alone" -eq 0 ] || [ "$alone" -eq "$none" ] || exit "$alone"
if [ "$together" -eq "$none" ] && [ "$alone" -eq "$none" ]; then
    exit "$none"
fi
if [ -n "${COVERAGE:-}" ]; then
    "$python" -m coverage report
fi
