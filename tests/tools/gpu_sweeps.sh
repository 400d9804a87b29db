#!/bin/bash
# The sweeps and the ablation of manifests/ with a model of one's own on a GPU: which batch size is best by time and
# memory, and what each way to save memory saves and costs.
#
#   tests/tools/gpu_sweeps.sh MODEL TATQA OUT [MANIFEST...]     MANIFEST: sweep-batch-size sweep-batch-size-fft ablate-memory
#
# MODEL is a Hugging Face folder with a tokenizer (tests/tools/random_model.py makes one of any shape), TATQA the folder
# with tatqa_dataset_test_gold.json and tatqa_dataset_dev.json, OUT gets a Markdown table, a JSON report, the events and
# what was printed, for each manifest. Full fine-tuning has bf16 states: with f32 masters 8B does not fit into 80 GB.
#
# Environment: ANNEAL (the program; default the one on PATH), ROOT (folder with manifests/; default this script's
# checkout), LIMIT (memory_limit of every training; default "79 GiB", an 80 GB card's), STEPS (default 8), DEVICE
# (default cuda), OUTPUTS (default a folder under /dev/shm that is removed at the end), TIMEOUT (seconds for a manifest; default 300).
set -u

model=${1:?usage: gpu_sweeps.sh MODEL TATQA OUT [MANIFEST...]} tatqa=${2:?} out=${3:?}
shift 3
anneal=${ANNEAL:-anneal}
root=${ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}
limit=${LIMIT:-79 GiB} steps=${STEPS:-8} device=${DEVICE:-cuda}
outputs=${OUTPUTS:-}
[ -n "$outputs" ] || { outputs=$(mktemp -d /dev/shm/anneal-sweeps.XXXXXX); trap 'rm -rf "$outputs"' EXIT; }
mkdir -p "$out"

# trainers MANIFEST: the stages that train.
trainers() { sed -n 's/^\[stages\.\([a-z_]*\)\]$/\1/p' "$root/manifests/$1.toml" | grep -E '^(lora|fft)'; }

failed=0
[ $# -gt 0 ] || set -- sweep-batch-size sweep-batch-size-fft ablate-memory
for manifest in "$@"; do
    sets=(--device "$device" --root "$root" --outputs "$outputs" --set "base.model=$(realpath "$model")"
        --set "questions.dataset.train=$(realpath "$tatqa/tatqa_dataset_test_gold.json")"
        --set "questions.dataset.eval=$(realpath "$tatqa/tatqa_dataset_dev.json")" --set tokens.max_length=4096)
    for trainer in $(trainers "$manifest"); do
        sets+=(--set "$trainer.max_steps=$steps" --set "$trainer.eval_examples=8" --set "$trainer.memory_limit=$limit")
        # The ablation sweeps the states of one of its trainings; that one keeps what the manifest says.
        [[ $trainer == fft* && $manifest != ablate-memory ]] && sets+=(--set "$trainer.optimizer_states=bf16")
    done
    path=$root/manifests/$manifest.toml begun=$SECONDS
    # A row that failed is a result of a sweep: exit code 1, 5 or 6, never 70.
    timeout "${TIMEOUT:-300}" "$anneal" run "$path" --jobs 1 --yes "${sets[@]}" --json > "$out/$manifest.jsonl" 2> "$out/$manifest.txt"
    code=$?
    "$anneal" report "$path" "${sets[@]}" --markdown > "$out/$manifest.md" &&
        "$anneal" report "$path" "${sets[@]}" --json > "$out/$manifest.json" || failed=$((failed + 1))
    [[ $code == 0 || $code == 1 || $code == 5 || $code == 6 ]] || failed=$((failed + 1))
    printf '\n== %s: exit code %s, %s s\n' "$manifest" $code $((SECONDS - begun))
    cut -c 1-200 "$out/$manifest.md"
    if [ "$manifest" != ablate-memory ]; then "$anneal" report "$path" "${sets[@]}" --best tokens_per_second | tail -n 1; fi
done
exit $failed
