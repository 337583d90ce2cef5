#!/usr/bin/env bash
# Runs the tests and counts them.
#
#   test.sh check    what needs no cluster: format, lints, unit tests, database tests
#   test.sh all      also the demo and the e2e tests: on the cluster that KUBECONFIG names, or as root on one of its own
#
# The last line is `N passed, N failed`, summed over all of cargo's, and `, N skipped` where a cluster was missing. What
# fails without a count (a lint, a build, a test program that crashes) counts as one. Every step runs, whatever failed
# before; the exit status is that of the whole.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0 failed=0 skipped=0
output=$(mktemp)
why=$(mktemp) # what cargo says of the tests that failed
# Not the one of `make cluster`, which stays as it is.
export CLUSTER_NAME=${CLUSTER_NAME:-test}
ours= # whether a cluster must be removed

finish() {
  local status=$?
  [ -z "$ours" ] || e2e/cluster/cluster down
  rm -f "$output" "$why"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

heading() { printf '\n==> %s\n' "$1"; }

# WHAT CMD...: a step that passes or fails as a whole. Only failing counts: it is no test.
step() {
  local what=$1; shift
  heading "$what"
  "$@" && return
  failed=$((failed + 1))
  echo "failed: $what"
  return 1
}

# WHAT CMD...: a step that runs `cargo test`, whose results are added up.
tests() {
  local what=$1 status ran bad; shift
  heading "$what"
  "$@" 2>&1 | tee "$output"
  status=${PIPESTATUS[0]}
  ran=$(sum passed) bad=$(sum failed)
  # It failed and counted nothing, or claims success and ran nothing.
  if { [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; } || { [ "$status" -eq 0 ] && [ "$ran" -eq 0 ]; }; then
    bad=$((bad + 1))
  fi
  passed=$((passed + ran)) failed=$((failed + bad))
  [ "$status" -eq 0 ] && [ "$bad" -eq 0 ] && return
  awk '/^failures:$/ { on = 1 } /^test result: / { on = 0 } on' "$output" >>"$why"
  echo "failed: $what"
  return 1
}

# WORD: the sum of its numbers in cargo's lines `test result: ok. 3 passed; 0 failed; ...`.
sum() {
  sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$output" | awk '{ n += $1 } END { print n + 0 }'
}

check() {
  # Judges of the database tests. Without root those that are missing are done without, and the tests say so.
  if [ "$(id -u)" = 0 ]; then
    step 'programs' e2e/need.sh psql pg_dump pgbouncer curl python3 target/judges/bin/python
    export TEST_PROGRAMS=all
  else
    # It needs no root, only Python.
    e2e/need.sh target/judges/bin/python || true
  fi
  step 'format' cargo fmt --all --check
  step 'lints' cargo clippy --workspace --all-targets -- -D warnings
  # Those that are left out of `--all-targets`, as they are out of `cargo test`.
  step 'lints of the e2e tests' cargo clippy --workspace --test demo --test cluster -- -D warnings
  # The judge apart: it keeps every processor busy, and others have deadlines.
  tests 'unit tests, database tests and documentation' cargo test --workspace --no-fail-fast -- --skip "$judge"
  tests 'the judge' cargo test --workspace --test it -- --exact "$judge" --nocapture
}

judge=judge::the_log_hands_out_what_postgres_itself_decodes

# The database tests on the versions of PostgreSQL that `check` leaves out.
versions() {
  local version
  for version in 14 16 17 18; do
    export TEST_POSTGRES=$version
    tests "database tests on PostgreSQL $version" cargo test --workspace --test it -- --skip "$judge" --skip standalone::
    JUDGE_TRANSACTIONS=5000 tests "the judge on PostgreSQL $version" cargo test --workspace --test it -- --exact "$judge" --nocapture
  done
  unset TEST_POSTGRES
}

# The two test programs that plain `cargo test` leaves out, because they need more than a checkout.
e2e() {
  step 'build of the e2e tests' cargo test --workspace --test demo --test cluster --no-run || return
  tests 'demo' cargo test --workspace --test demo
  if [ -n "${KUBECONFIG:-}" ]; then
    others
    step 'operator' e2e/operator.sh || return
    cluster_tests
    # Not those that read the API server's audit log, nor the one that deletes every resource there is: it is not our cluster.
    installation_tests --skip install::audit --skip install::page
  elif [ "$(id -u)" = 0 ]; then
    heading 'cluster'
    ours=yes
    # Down first: an earlier run that was killed could not.
    { e2e/cluster/cluster install && e2e/cluster/cluster down && e2e/cluster/cluster up; } || { failed=$((failed + 1)); return; }
    others
    if step 'operator' e2e/operator.sh; then
      inside=(e2e/cluster/cluster run env E2E_AUDIT_LOG="$(e2e/cluster/cluster audit-log)")
      cluster_tests && installation_tests
    fi || explain e2e/cluster/cluster run
  else
    heading 'cluster'
    echo 'skipped: without root there is no cluster of our own; set KUBECONFIG to use yours'
    skipped=$(cargo test --quiet --workspace --test cluster -- --list | grep -c ': test$')
  fi
}

# The programs of others that the e2e tests run: compiled before, as inside the cluster's network there is no way to their sources.
others() {
  step 'judges' e2e/judges.sh
  step 'flux' e2e/flux/build.sh
  step 'helm-docs' e2e/tools/tool helm-docs
}

inside=() # how to run something where the cluster can be reached

# They mostly wait: more of them than processors.
cluster_tests() {
  tests 'e2e tests' "${inside[@]}" cargo test --workspace --offline --test cluster -- --test-threads 8 --show-output --skip install::
}

# ARGS...: the tests of the installation, one after the other, as each puts the operator away. After all others: the first of
# them looks at what the operator did meanwhile.
installation_tests() {
  tests 'installation' "${inside[@]}" cargo test --workspace --offline --test cluster -- --test-threads 1 install:: "$@"
}

# CMD...: what somebody needs who reads only the output of a failed run.
explain() {
  heading 'what the cluster says'
  "$@" kubectl get pods --all-namespaces --output wide
  "$@" kubectl get eventlogs,eventsinks,eventtriggers --all-namespaces
  "$@" kubectl get events --all-namespaces --sort-by .metadata.creationTimestamp | tail -n 40
  "$@" kubectl --namespace eventtrigger-system logs --selector app.kubernetes.io/name=eventtrigger --tail 200
}

case ${1:-} in
  # A tenth of the judge's transactions: it is run often.
  check) JUDGE_TRANSACTIONS=${JUDGE_TRANSACTIONS:-5000} check ;;
  all) check; versions; e2e ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# Once more at the end, where it is looked for: much may have been said since.
if [ -s "$why" ]; then heading 'what failed' && cat "$why"; fi
heading 'result'
printf '%d passed, %d failed' "$passed" "$failed"
[ "$skipped" -eq 0 ] || printf ', %d skipped' "$skipped"
echo
[ "$failed" -eq 0 ]
