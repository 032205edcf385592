#!/usr/bin/env bash
# Run the Go benchmarks of two revisions alternately on this machine, and print the
# comparison by benchstat. All other output goes to stderr.
#
#   bench/compare.sh OLD NEW [PACKAGE...]
#   BENCH='Send|Pool' COUNT=10 TIME=200ms bench/compare.sh v0.1.0 HEAD ./relay
#
# BENCH selects benchmarks, COUNT is the number of runs of each revision, and TIME the
# duration of each benchmark. The default is all packages that have benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly BENCHSTAT=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
revisions=("$1" "$2")
shift 2
packages=("$@")
bench=${BENCH:-.} count=${COUNT:-6} time=${TIME:-200ms}

scratch=$(mktemp -d)
tidy() {
  local name
  for name in old new; do
    [ ! -d "$scratch/$name" ] || git worktree remove --force "$scratch/$name"
  done
  rm -rf "$scratch"
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A package or benchmark may exist in only one of the two.
with_benchmarks() { grep -rlE --include='*_test.go' '^func Benchmark' . | xargs -r -n 1 dirname | sort -u; }

i=0
for name in old new; do
  git worktree add --quiet --detach "$scratch/$name" "${revisions[i]}"
  mkdir "$scratch/$name.bin"
  i=$((i + 1))
  cd "$scratch/$name"
  list=("${packages[@]}")
  [ ${#list[@]} -gt 0 ] || mapfile -t list < <(with_benchmarks)
  for package in "${list[@]}"; do
    [ -d "$package" ] || continue
    echo "$name: $package" >&2
    flat=${package#./}
    go test -c -o "$scratch/$name.bin/${flat//\//%}" "$package"
  done
  cd "$OLDPWD"
done

for ((turn = 1; turn <= count; turn++)); do
  for name in old new; do
    echo "turn $turn of $count: $name" >&2
    for binary in "$scratch/$name.bin"/*; do
      package=${binary##*/}
      package=${package//%//}
      (cd "$scratch/$name/$package" && "$binary" -test.run '^$' -test.bench "$bench" -test.benchtime "$time") >>"$scratch/$name.txt"
    done
  done
done
go run "$BENCHSTAT" "old=$scratch/old.txt" "new=$scratch/new.txt"
