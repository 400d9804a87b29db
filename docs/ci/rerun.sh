#!/bin/sh
# Runs a manifest where nothing is kept from one time to the next, and executes only what changed.
#
#   docs/ci/rerun.sh manifests/quickstart.toml [options of `anneal run`]
#
# The store comes from the archive in $STORE and goes back there; what differs from the base's run is told as Markdown.
#
#   ANNEAL     the program                                             [anneal]
#   OUTPUTS    the outputs folder; one that has a store already is used as it is   [outputs]
#   STORE      folder that the CI system keeps: the archive of the store           [.anneal-store]
#   IS_BASE    1: this run is what later ones are compared with (pushes to the main branch)   [0]
#   DIFF       file to write the Markdown to                           [diff.md]
#   STORE_MIB  an archive larger than this is not kept                 [8192]
#
# Ends with the exit code of `anneal run`; the store is kept and the difference told even if a stage failed.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 MANIFEST [options of anneal run]" >&2; exit 2; }
manifest=$1
shift
anneal=${ANNEAL:-anneal} outputs=${OUTPUTS:-outputs} store=${STORE:-.anneal-store}
archive=$store/store.tar
say() { echo "rerun: $*" >&2; }

# 1. The store. An archive that is not what was written is not used at all: everything runs, nothing is wrong.
mkdir -p "$outputs" "$store"
if [ -d "$outputs/objects-v1" ]; then
  say "$outputs has a store already"
elif [ ! -f "$archive" ]; then
  say "there is no store yet; everything runs"
elif (cd "$store" && sha256sum --check --status store.tar.sha256) && tar -C "$outputs" -xf "$archive"; then
  say "store restored"
else
  say "the archive of the store is damaged; everything runs"
  rm -rf "$outputs/objects-v1" "$outputs/latest" "$outputs/runs" "$outputs/base-run"
fi

# 2. What changed runs. --record: a run that only finds results is compared like any other, by what it found. A manifest
# that cannot be read begins no run, and then nothing is to be compared or kept.
names() { ls "$outputs/runs" 2>/dev/null || true; }
before=$(names)
code=0
"$anneal" run "$manifest" --outputs "$outputs" --record "$@" || code=$?
run=$(names | grep -vxF -e "$before" | tail -n 1 || true)
diff=${DIFF:-diff.md}
if [ -z "$run" ]; then
  if [ "$code" = 0 ]; then echo "Nothing changed: every result was in the store." >"$diff"; else rm -f "$diff"; fi
  exit "$code"
fi

# 3. What came of it, beside the base's run.
base=$(cat "$outputs/base-run" 2>/dev/null || true)
if [ -n "$base" ] && [ -d "$outputs/runs/$base" ]; then
  "$anneal" diff "$base" "$run" --markdown --outputs "$outputs" >"$diff" ||
    echo "The runs $base and $run could not be compared; the log says why." >"$diff"
else
  echo "There is no run of the base to compare with yet." >"$diff"
fi
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$diff" >>"$GITHUB_STEP_SUMMARY"; fi
if [ "${IS_BASE:-0}" = 1 ] && [ "$code" = 0 ]; then
  echo "$run" >"$outputs/base-run"
  base=$run
fi

# 4. The store again: objects before records, so that even half an archive would hold no record without its objects.
# The index is left out, since it describes this disk; so are locks, work in progress, and all runs but two.
set -- objects-v1/trees objects-v1/checkpoints objects-v1/records objects-v1/failures
for part in latest base-run "runs/$run"; do
  if [ -e "$outputs/$part" ]; then set -- "$@" "$part"; fi
done
if [ "$base" != "$run" ] && [ -d "$outputs/runs/$base" ] && [ -n "$base" ]; then set -- "$@" "runs/$base"; fi
rm -f "$archive" "$store/store.tar.sha256"
tar -C "$outputs" -cf "$archive" "$@"
mib=$(($(wc -c <"$archive") / 1048576))
if [ "$mib" -gt "${STORE_MIB:-8192}" ]; then
  say "the store has $mib MiB, more than STORE_MIB; it is not kept. keep = \"metrics\" makes stages small."
  rm -f "$archive"
else
  (cd "$store" && sha256sum store.tar >store.tar.sha256)
  say "store of $mib MiB kept"
fi
exit "$code"
