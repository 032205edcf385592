#!/usr/bin/env bash
# Fuzz every target, one after the other. Failing inputs are written to testdata/fuzz
# beside the target; "go test" runs them from then on.
#
#   test/fuzz.sh [MINUTES [PATTERN]]
#
# MINUTES are for each target (1), PATTERN a regular expression for "package
# target" ("."): test/fuzz.sh 60 'server FuzzSession'. FUZZ_WORKERS (1) are
# processes at once.
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
