#!/usr/bin/env bash
# Run every fuzz target, one after the other. Failing inputs are written to testdata/fuzz of
# the package, and "go test" runs them from then on.
#
#   test/fuzz.sh [MINUTES [PATTERN]]
#
# MINUTES is the time for each target (default 1). PATTERN is a regular expression that
# selects lines of "package target" (default all): test/fuzz.sh 60 'server FuzzSession'.
# FUZZ_WORKERS is the number of parallel processes (default 1).
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-1}
pattern=${2:-.}

targets() {
  go test -list '^Fuzz' ./... |
    awk '/^Fuzz/ { names[++n] = $1 } /^ok/ { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }'
}

failed=()
while read -r package target; do
  printf '\n== %s %s\n' "$package" "$target"
  go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${minutes}m" -fuzzminimizetime 2s \
    -parallel "${FUZZ_WORKERS:-1}" </dev/null || failed+=("$package $target")
done < <(targets | grep -E -- "$pattern")

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed:\n' >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
