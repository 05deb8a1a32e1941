#!/usr/bin/env bash
# The whole way from recordings to a pretrained model, a classifier fine-tuned from it, its metrics, and a report on
# an ECG, in minutes on two CPU cores. All that the commands print is in OUT/demo.log.
#   DATA=<folder of WFDB records>   real recordings instead of simulated ones
#   OUT=<folder>                    where everything goes (default runs/demo)
#   TRAIN_ARGS="..."                more options for fairseq-hydra-train
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
OUT="${OUT:-runs/demo}"
mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"
LOG="$OUT/demo.log"
: > "$LOG"
STEPS=7
STEP=0

# Say how a step that is running gets on, until it is killed: `watch TITLE`.
watch() {
    local begun=$SECONDS updates
    while kill -0 $$ 2>/dev/null; do
        updates="$(tail -n 20 "$LOG" | sed -n 's/.*"num_updates": "\([0-9]*\)".*/, update \1/p' | tail -n 1)"
        printf '\r%s %4d s%s ' "$1" $((SECONDS - begun)) "$updates"
        sleep 1
    done
}

# Run a command, with all that it prints in the log, and print a line: `step TITLE COMMAND...`.
step() {
    local begun=$SECONDS status watcher="" title
    STEP=$((STEP + 1))
    title="$(printf '[%d/%d] %-46s' "$STEP" "$STEPS" "$1")"
    shift
    printf '\n== %s\n' "$*" >> "$LOG"
    if [ -t 1 ]; then
        watch "$title" &
        watcher=$!
    fi
    set +e
    (
        set -e # which would not hold in a function of an if or ||
        "$@"
    ) >> "$LOG" 2>&1
    status=$?
    set -e
    if [ -n "$watcher" ]; then
        kill "$watcher"
        wait "$watcher" 2>/dev/null || true
        printf '\r\033[K'
    fi
    printf '%s %4d s\n' "$title" $((SECONDS - begun))
    [ "$status" -eq 0 ] || fail "$status" "$*"
}

fail() {
    [ "$1" -ne 130 ] || { echo "interrupted; the same command continues" >&2; exit 130; }
    tail -n 15 "$LOG" >&2
    echo "error: the step \"$2\" ended with status $1; all that was printed: $LOG" >&2
    exit "$1"
}

simulate() {
    python examples/demo/simulate.py --out "$SOURCE"
    touch "$SOURCE/done"
}

prepare() {
    # status 1 means that some recordings were rejected, see rejected.csv; the others are prepared
    python manifests/prepare.py wfdb "$SOURCE" --out "$OUT/data" --resume || [ -s "$OUT/data/all.tsv" ]
    python manifests/split.py "$OUT/data" --name random --overwrite
    python manifests/verify.py "$OUT/data"
}

pretrain() {
    # shellcheck disable=SC2086
    fairseq-hydra-train --config-dir "$CONFIGS/pretraining" --config-name tiny \
        task.data="$OUT/data/splits/random" common.user_dir="$USER_DIR" \
        hydra.run.dir="$OUT/pretrain" checkpoint.save_dir="$OUT/pretrain/checkpoints" ${TRAIN_ARGS:-}
    fairseq-signals-ext curve "$OUT/pretrain" --out "$OUT/loss.png"
}

label() {
    # status 1 where fewer than 10 recordings have any of its diagnoses: the demo ends with the pretrained model
    rm -rf "$OUT/data/labels/rhythm"
    python manifests/label.py "$OUT/data" --name rhythm --codes cinc2021 --min-count 10 \
        --train-manifest "$OUT/data/splits/random/train.tsv" || [ $? -eq 1 ]
}

finetune() {
    fairseq-hydra-train --config-dir "$CONFIGS/fine_tuning" --config-name tiny \
        task.data="$OUT/data/splits/random" task.label_file="$OUT/data/labels/rhythm" \
        criterion.pos_weight="$OUT/data/labels/rhythm/pos_weight.txt" \
        model.model_path="$OUT/pretrain/checkpoints/checkpoint_best.pt" common.user_dir="$USER_DIR" \
        hydra.run.dir="$OUT/finetune" checkpoint.save_dir="$OUT/finetune/checkpoints"
}

evaluate() {
    # by fairseq's command and by ours
    fairseq-validate "$OUT/data/splits/random" --user-dir "$USER_DIR" --task ecg_classification \
        --path "$OUT/finetune/checkpoints/checkpoint_best.pt" --valid-subset test --batch-size 64 --cpu
    fairseq-signals-ext evaluate "$OUT/finetune/checkpoints/checkpoint_best.pt" --data "$OUT/data/splits/random" \
        --subset test --labels "$OUT/data/labels/rhythm" --out "$OUT/evaluation" --overwrite --device cpu
}

report() {
    # sed reads to the end: with head, sort could die of a closed pipe, and the demo with it
    fairseq-signals-ext report "$OUT/finetune/checkpoints/checkpoint_best.pt" \
        "$(find "$SOURCE" -name '*.hea' | sort | sed -n 1p)" --out "$OUT/report" --overwrite
}

USER_DIR="$(fairseq-signals-ext user-dir)"
CONFIGS="$(fairseq-signals-ext configs)"
SOURCE="${DATA:-$OUT/simulated}"
echo "The demo takes a few minutes. All that its commands print: $LOG"
if [ -z "${DATA:-}" ] && [ ! -e "$SOURCE/done" ]; then
    step "Simulate 300 ECGs" simulate
else
    STEPS=6
fi
step "Prepare, split and verify the ECGs" prepare
step "Pretrain a small ECG-FM without labels" pretrain
step "Label heart rhythms from diagnostic codes" label
if [ -s "$OUT/data/labels/rhythm/y.npy" ]; then
    step "Fine-tune it on the labels" finetune
    step "Evaluate it on the test set" evaluate
    step "Make a report on one ECG" report
else
    echo "No labels: fewer than 10 recordings have any diagnosis of the map cinc2021."
fi
echo
python examples/demo/summary.py "$OUT"
