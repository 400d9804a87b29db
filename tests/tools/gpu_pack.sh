#!/bin/bash
# Builds what tests/tools/gpu_check.sh runs on a GPU machine without cargo, and puts it with its fixtures into a folder.
#
#   tests/tools/gpu_pack.sh FOLDER [options of tools/cuda/toolkit.sh: --into DIR, --toolkit DIR]
#   FOLDER/gpu_check.sh                                      # there
#
# FOLDER is emptied. It gets bin/ (anneal with the feature `cuda`, the ops' tests, the golden tests; stripped), the
# manifests, data/quickstart, tests/fixtures and, from the folder that ANNEAL_TEST_DATA names, goldens and stories260K.
# Environment: ANNEAL_CUDA_ARCHS (default 90a: one GPU is enough for a check), CARGO_TARGET_DIR (default target/cuda),
# PROFILE (default dev, whose kernels are optimised like a release's; `release` for timings).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?usage: gpu_pack.sh FOLDER [options of tools/cuda/toolkit.sh]}
shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -n "$(ls -A "$folder")" ] && [ ! -e "$folder/gpu_check.sh" ]; then
    echo "gpu_pack.sh: $folder is neither empty nor made by this script" >&2
    exit 2
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/cuda} ANNEAL_CUDA_ARCHS=${ANNEAL_CUDA_ARCHS:-90a}
profile=${PROFILE:-dev}
cd "$root"

toolkit=("$@")

# built "cargo arguments" NAME...: builds, and prints the executable of each name, one a line.
built() {
    local arguments=$1; shift
    # shellcheck disable=SC2086 # several arguments in one word
    "$root/tools/cuda/toolkit.sh" "${toolkit[@]}" cargo $arguments --profile "$profile" --features cuda \
        --message-format=json-render-diagnostics |
        python3 -c '
import json, sys
messages = [json.loads(line) for line in sys.stdin if line.startswith("{")]
found = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
print(*(found[name] for name in sys.argv[1:]), sep="\n")' "$@"
}

# Together, so that their dependencies have the same features and are built once.
programs=$(built "build -p anneal -p anneal-tests --bin anneal --test golden" anneal golden)
{ read -r anneal; read -r golden; } <<< "$programs"
ops=$(built "test --no-run -p anneal-ops --lib" anneal_ops)

rm -rf "${folder:?}"/*
mkdir -p "$folder/bin" "$folder/data" "$folder/tests"
strip -o "$folder/bin/anneal" "$anneal"
strip -o "$folder/bin/ops_tests" "$ops"
strip -o "$folder/bin/golden" "$golden"
cp -r manifests "$folder/manifests"
cp -r data/quickstart "$folder/data/quickstart"
cp -r tests/fixtures "$folder/tests/fixtures"
if [ -n "${ANNEAL_TEST_DATA:-}" ]; then
    mkdir -p "$folder/shared/models"
    cp -r "$ANNEAL_TEST_DATA/golden" "$folder/shared/golden"
    cp -r "$ANNEAL_TEST_DATA/models/stories260K" "$folder/shared/models/stories260K"
    chmod -R u+w "$folder/shared"
fi
cp tests/tools/gpu_check.sh "$folder/gpu_check.sh"
chmod +x "$folder/gpu_check.sh"
size=$(du -sm "$folder" | cut -f 1)
du -sh "$folder"/bin/* "$folder" >&2
if [ "$size" -gt 60 ]; then
    echo "gpu_pack.sh: $folder has $size MiB; more than 60 may not travel" >&2
    exit 1
fi
