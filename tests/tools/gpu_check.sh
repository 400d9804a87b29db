#!/bin/bash
# Checks the CUDA backend on a machine with a GPU and without cargo, from a folder that tests/tools/gpu_pack.sh made.
#
#   FOLDER/gpu_check.sh [PART...]        parts: ops golden quickstart resume variants oom nogpu sanitizer (default: all)
#
# Every part runs, whatever became of those before it; the table at the end says how each went, and the exit status is
# the number of parts that failed. About five minutes on an H100. What each part asks:
#
#   ops         every op's test on the CPU and the GPU from one body; attention's again without warpgroup products
#   golden      bf16 against f32: at most twice torch-bf16's error (three times, of gradients); SmolLM2 too if
#               ANNEAL_TEST_SMOLLM2 names its .gguf
#   quickstart  manifests/quickstart.toml twice into two stores: every artifact has the same bytes
#   resume      kill -9 of the training worker, twice, and again: the bytes of the run that nobody killed, LoRA and full
#   variants    batch 8, 4 x 2, a token budget, and the three checkpointings: losses differ by bf16 noise, those of the
#               checkpointings not at all
#   oom         a batch too large is the outcome `oom` with exit code 5 and a message, and a smaller one then runs
#   nogpu       no visible GPU is an error that says so, with exit code 3
#   sanitizer   compute-sanitizer memcheck and racecheck on the ops' small tests
#
# Environment: OUT (logs; default a new folder under /tmp), ANNEAL_TEST_DATA (default FOLDER/shared, if there),
# ANNEAL_CHECK_DEVICE=cpu (tries this script itself without a GPU; oom and sanitizer are left out then).
set -u

here=$(cd "$(dirname "$0")" && pwd)
anneal=$here/bin/anneal
device=${ANNEAL_CHECK_DEVICE:-cuda}
logs=${OUT:-$(mktemp -d /tmp/anneal-gpu-logs.XXXXXX)}
work=$(mktemp -d /tmp/anneal-gpu-check.XXXXXX)
trap 'rm -rf "$work"' EXIT
[ "$device" = cuda ] && export ANNEAL_TEST_GPU=1
export ANNEAL_TEST_ROOT=$here
[ -d "$here/shared" ] && export ANNEAL_TEST_DATA=${ANNEAL_TEST_DATA:-$here/shared}
cd "$here" || exit 99

note=            # what a part wants to say in its row of the table
say() { note="$note${note:+; }$1"; }
fail() { say "$1"; return 1; }
run() { "$anneal" run "$@" --device "$device"; }
# The files of a stage's artifact with their sums.
sums() { (cd "$1/latest/$2" && find -L "${3:-.}" -mindepth 1 -type f ! -name keys.json -exec sha256sum {} + | sort -k 2); }
artifact() { echo "$1/latest/quickstart/$2"; }
# Counts of a libtest run.
tally() { grep -h '^test result' "$1" | tail -n 1 | sed 's/test result: //; s/; 0 measured.*//; s/\. / /'; }

ops() {
    "$here/bin/ops_tests"; local code=$?
    say "$(tally "$logs/ops.log")"
    # A newer GPU tests the kernels of the others too.
    ANNEAL_WGMMA=0 "$here/bin/ops_tests" attention::tiled_tests attention::tests || code=1
    return $code
}

golden() {
    # One at a time, so that the tables it prints stay whole.
    "$here/bin/golden" --nocapture --test-threads 1; local code=$?
    say "$(tally "$logs/golden.log")"
    say "worst ratio to torch: outputs $(worst 2), gradients $(worst 3)"
    return $code
}
worst() { sed -n "s/.*ratio *\([0-9.infNa]*\) of $1\$/\1/p" "$logs/golden.log" | sort -g | tail -n 1; }

quickstart() {
    for copy in one two; do
        run manifests/quickstart.toml --outputs "$work/$copy" || fail "run $copy ended with $?" || return
        sums "$work/$copy" quickstart > "$work/$copy.sums"
    done
    say "$(wc -l < "$work/one.sums") files"
    diff "$work/one.sums" "$work/two.sums" || fail "$(diff "$work/one.sums" "$work/two.sums" | grep -c '^>') differ"
}

# A short training run of one stage; more arguments follow.
train() {
    local stage=$1 outputs=$2; shift 2
    run manifests/quickstart.toml --only "$stage" --set "$stage.eval_examples=0" --outputs "$outputs" "$@"
}

# resume_one STAGE: kills the worker of a run after its second checkpoint, kills the resumed one too, lets the third end.
resume_one() {
    local stage=$1 steps=400 every=10
    [ "$device" = cpu ] && steps=14 every=2
    local sets=(--set "$stage.max_steps=$steps" --set "$stage.checkpoint_every=$every")
    train "$stage" "$work/whole" "${sets[@]}" || fail "$stage: uninterrupted run ended with $?" || return
    local round events worker driver
    for round in 1 2; do
        events=$logs/resume-$stage-$round.jsonl
        : > "$events"
        train "$stage" "$work/killed" "${sets[@]}" --json > "$events" &
        driver=$!
        while [ "$(grep -c '"type":"checkpoint".*"resumed":false' "$events")" -lt 2 ]; do
            kill -0 $driver 2> /dev/null || fail "$stage: round $round ended before it could be killed" || return
            sleep 0.02
        done
        worker=$(sed -n "s/.*\"stage\":\"$stage\".*stage-started.*\"pid\":\([0-9]*\).*/\1/p" "$events" | tail -n 1)
        [ "$worker" != $driver ] && kill -9 "$worker" || fail "$stage: no worker to kill" || return
        if wait $driver; then fail "$stage: round $round ended well though its worker was killed"; return; fi
    done
    events=$logs/resume-$stage-3.jsonl
    train "$stage" "$work/killed" "${sets[@]}" --json > "$events" || fail "$stage: resumed run ended with $?" || return
    grep -q '"type":"checkpoint".*"resumed":true' "$events" || fail "$stage: it began anew" || return
    say "$stage resumed at step $(sed -n 's/.*"step":\([0-9]*\).*"resumed":true.*/\1/p' "$events" | tail -n 1) of $steps"
    diff -r "$(artifact "$work/whole" "$stage")/" "$(artifact "$work/killed" "$stage")/" || fail "$stage: bytes differ"
}

resume() { local bad=0; for stage in lora fft; do resume_one $stage || bad=1; done; return $bad; }

# losses FILE: of each step.
losses() { sed -n 's/.*"step":\([0-9]*\),.*"loss":\([0-9.e+-]*\),.*/\1 \2/p' "$1"; }

variants() {
    local bad=0 stage name steps=20
    [ "$device" = cpu ] && steps=3
    for stage in lora fft; do
        while read -r name sets; do
            # shellcheck disable=SC2086 # several options in one word
            train $stage "$work/variants" --set $stage.max_steps=$steps ${sets//STAGE/$stage} ||
                { fail "$stage $name ended with $?"; bad=1; continue; }
            rm -rf "$work/$stage-$name"
            cp -rL "$(artifact "$work/variants" $stage)" "$work/$stage-$name"
            losses "$work/$stage-$name/trainer_log.jsonl" > "$logs/losses-$stage-$name"
            [ "$name" = batch-8 ] && continue
            # First step: the same weights. Later ones: what became of the differences.
            join "$logs/losses-$stage-batch-8" "$logs/losses-$stage-$name" | awk -v what="$stage $name" -v steps=$steps '
                function rel(a, b) { d = (a - b) / a; return d < 0 ? -d : d }
                NR == 1 { first = rel($2, $3) }
                { d = rel($2, $3); if (d > most) most = d; sum += d }
                END { printf "variant %-18s steps %d, loss differs by %.2e at first, %.2e on average, %.2e at most\n", what, NR, first, sum / NR, most
                      exit !(NR == steps && first < 2e-3 && sum / NR < 2e-2) }' || { say "$stage $name: losses differ"; bad=1; }
            case $name in
                selective | full)
                    diff -rq "$work/$stage-batch-8" "$work/$stage-$name" || { say "$stage $name: bytes differ"; bad=1; } ;;
            esac
        done <<- END
			batch-8 --set STAGE.batch_size=8
			batch-4x2 --set STAGE.batch_size=4 --set STAGE.gradient_accumulation_steps=2
			tokens --set STAGE.batch_tokens=1500
			selective --set STAGE.checkpointing=selective
			full --set STAGE.checkpointing=full
		END
    done
    say "largest mean difference $(sed -n 's/^variant.*first, \([0-9.e+-]*\) on average.*/\1/p' "$logs/variants.log" | sort -g | tail -n 1)"
    return $bad
}

oom() {
    # Few weights, but 10 GB of activations a layer and 16 layers for 64 examples of 400 tokens.
    cat > "$work/oom.toml" <<- 'END'
		[experiment]
		name = "oom"
		[stages.data]
		kind = "load"
		dataset = { format = "tat-qa", train = "data/quickstart/train.json", eval = "data/quickstart/eval.json" }
		[stages.random]
		kind = "load"
		inputs = { dataset = "data" }
		init = { vocab_size = 1024, hidden_size = 32, intermediate_size = 65536, num_hidden_layers = 16, num_attention_heads = 2, num_key_value_heads = 2, max_position_embeddings = 1024 }
		[stages.tokens]
		kind = "tokenize"
		inputs = { model = "random", dataset = "data" }
		template = "tat-qa"
		[stages.lora]
		kind = "train-lora"
		inputs = { model = "random", tokens = "tokens" }
		batch_size = 64
		max_steps = 1
		eval_examples = 0
	END
    run "$work/oom.toml" --root "$here" --outputs "$work/oom" > "$work/oom.text" 2>&1; local code=$?
    cat "$work/oom.text"
    say "exit code $code: $(grep -m 1 -i 'out of memory' "$work/oom.text" | cut -c 1-120)"
    [ $code = 5 ] && grep -qi 'out of memory' "$work/oom.text" && ! grep -q panicked "$work/oom.text" || return 1
    run "$work/oom.toml" --root "$here" --outputs "$work/oom" --set lora.batch_size=1 || fail "then batch 1 ended with $?" || return
    # The same batch does not fit into a part of the card's memory, and does into a larger one.
    local limit
    for limit in 1 32; do
        run "$work/oom.toml" --root "$here" --outputs "$work/oom-$limit" --set lora.batch_size=1 \
            --set "lora.memory_limit=$limit GiB" > "$work/limit.text" 2>&1; code=$?
        cat "$work/limit.text"
        [ $code = $((limit == 1 ? 5 : 0)) ] || fail "memory_limit = $limit GiB: exit code $code" || return
    done
}

nogpu() {
    local bad=0 visible code
    for visible in "" 31; do
        CUDA_VISIBLE_DEVICES=$visible "$anneal" run manifests/quickstart.toml --device cuda --only lora --outputs "$work/nogpu" > "$work/nogpu.text" 2>&1
        code=$?
        cat "$work/nogpu.text"
        [ $code = 3 ] && grep -q GPU "$work/nogpu.text" && ! grep -q panicked "$work/nogpu.text" && continue
        say "CUDA_VISIBLE_DEVICES=\"$visible\": exit code $code"
        bad=1
    done
    [ $bad = 0 ] && say "$(grep -m 1 GPU "$work/nogpu.text" | cut -c 1-120)"
    return $bad
}

# Literals and twins of every op at small and odd shapes; the long ones are for the part `ops`.
small=(literals the_twin f64_agree f64_and norm_is_global rows_are_ rows_do_not_depend products_of_every_kind a_cache_agrees
    a_prefix_gives gradients_have_the_bits a_cache_that_is_cut modules_of_one_input gate_and_up a_block_that_decodes)

# sanitized TOOL SHARD: every fourth of the tests, from SHARD on. Ours alone are looked at. An allocation that a test means
# to fail is no error. racecheck cannot follow kernels that begin before the one ahead of them has ended, and ends with an
# internal error where cuBLASLt's kernels run, looked at or not: our plain kernel multiplies there.
sanitized() {
    local tool=$1 shard=$2 fast=1 options=(--print-limit 20 --error-exitcode 99) tests
    mapfile -t tests < <(awk "NR % 4 == $shard" "$work/small")
    "$program" --help 2>&1 | grep -q -- '--kernel-name ' && options+=(--kernel-name kernel_substring=anneal_)
    [ "$tool" = memcheck ] && options+=(--report-api-errors no)
    [ "$tool" = racecheck ] && fast=0
    ANNEAL_OVERLAP=$fast ANNEAL_CUBLASLT=$fast timeout "${SANITIZER_SECONDS:-300}" "$program" --tool "$tool" "${options[@]}" \
        "$here/bin/ops_tests" --test-threads 1 --exact "${tests[@]}"
}

sanitizer() {
    local tool shard code bad=0 program
    program=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | head -n 1)
    [ -n "$program" ] || { say "compute-sanitizer is not installed"; return 77; }
    "$here/bin/ops_tests" --list "${small[@]}" 2> /dev/null | sed -n 's/: test$//p' > "$work/small"
    [ "$(wc -l < "$work/small")" -ge 4 ] || fail "no tests for the shards" || return
    for tool in memcheck racecheck; do
        local running=() codes=()
        for shard in 0 1 2 3; do
            sanitized $tool $shard > "$logs/$tool-$shard.log" 2>&1 &
            running+=($!)
        done
        for shard in 0 1 2 3; do
            wait "${running[$shard]}"; code=$?
            tail -n 20 "$logs/$tool-$shard.log"
            # A shard's own end, and the tool's word: a program that began nothing has no error either.
            [ $code = 0 ] && grep -q '^test result: ok' "$logs/$tool-$shard.log" && grep -q SUMMARY "$logs/$tool-$shard.log" ||
                codes+=("$shard: $code")
        done
        if grep -q 'Device not supported' "$logs/$tool"-?.log; then
            say "$tool: the device is not supported here"
            [ $bad = 1 ] || bad=77
            continue
        fi
        [ ${#codes[@]} = 0 ] || bad=1
        say "$tool: $(cat "$logs/$tool"-?.log | grep -c '^test .* ok$') of $(wc -l < "$work/small") tests, $(
            cat "$logs/$tool"-?.log | sed -n 's/.*SUMMARY:.*[ (]\([0-9][0-9]*\) error.*/\1/p' | awk '{ n += $1 } END { print n + 0 }') errors${codes[0]:+, ended badly: ${codes[*]}}"
    done
    return $bad
}

all=(ops golden quickstart resume variants oom nogpu sanitizer)
[ $# -gt 0 ] && all=("$@")
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2> /dev/null
table= failed=0
for part in "${all[@]}"; do
    declare -F "$part" > /dev/null || { echo "gpu_check.sh: no part $part" >&2; exit 99; }
    printf '\n== %s\n' "$part"
    note= started=$SECONDS
    if [ "$device" = cpu ] && [[ $part == oom || $part == sanitizer ]]; then code=77; note="needs a GPU"
    else
        # Not in a pipe: a part sets `note`.
        "$part" > "$logs/$part.log" 2>&1; code=$?
        if [ $part = golden ] || [ $part = variants ]; then grep -E 'ratio|greedy|^variant|differs|FAILED|panicked|skipped' "$logs/$part.log"
        elif [ $code != 0 ]; then tail -n 30 "$logs/$part.log"; fi
    fi
    case $code in 0) word=pass ;; 77) word=skipped ;; *) word=FAIL; failed=$((failed + 1)) ;; esac
    table+=$(printf '%-11s %-8s %4d s  %s' "$part" "$word" $((SECONDS - started)) "$note")$'\n'
done
printf '\n== result (logs in %s)\n%s' "$logs" "$table"
exit $failed
