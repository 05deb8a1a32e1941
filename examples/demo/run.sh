#!/usr/bin/env bash
# The whole way from recordings to a pretrained model, a classifier fine-tuned from it, its metrics, and a report on
# an ECG, in minutes on two CPU cores.
#   DATA=<folder of WFDB records>   real recordings instead of simulated ones
#   OUT=<folder>                    where everything goes (default runs/demo)
#   TRAIN_ARGS="..."                more options for fairseq-hydra-train
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
OUT="${OUT:-runs/demo}"
mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"

if [ -n "${DATA:-}" ]; then
    SOURCE="$DATA"
else
    SOURCE="$OUT/simulated"
    [ -e "$SOURCE/done" ] || python examples/demo/simulate.py --out "$SOURCE"
    touch "$SOURCE/done"
fi

echo "== Preparing shards and manifests from $SOURCE"
# status 1 means that some recordings were rejected, see rejected.csv; the others are prepared
python manifests/prepare.py wfdb "$SOURCE" --out "$OUT/data" --resume || [ -s "$OUT/data/all.tsv" ]
python manifests/split.py "$OUT/data" --name random --overwrite
python manifests/verify.py "$OUT/data"

echo "== Pretraining; a run that was stopped continues"
# shellcheck disable=SC2086
fairseq-hydra-train --config-dir "$(fairseq-signals-ext configs pretraining)" --config-name tiny \
    task.data="$OUT/data/splits/random" common.user_dir="$(fairseq-signals-ext user-dir)" \
    hydra.run.dir="$OUT/pretrain" checkpoint.save_dir="$OUT/pretrain/checkpoints" ${TRAIN_ARGS:-}

fairseq-signals-ext curve "$OUT/pretrain" --out "$OUT/loss.png" > /dev/null

echo "== Labels from the records' diagnostic codes"
if python manifests/label.py "$OUT/data" --name rhythm --codes cinc2021 --min-count 10 --overwrite \
    --train-manifest "$OUT/data/splits/random/train.tsv"; then
    echo "== Fine-tuning"
    fairseq-hydra-train --config-dir "$(fairseq-signals-ext configs fine_tuning)" --config-name tiny \
        task.data="$OUT/data/splits/random" task.label_file="$OUT/data/labels/rhythm" \
        criterion.pos_weight="$OUT/data/labels/rhythm/pos_weight.txt" \
        model.model_path="$OUT/pretrain/checkpoints/checkpoint_best.pt" \
        common.user_dir="$(fairseq-signals-ext user-dir)" \
        hydra.run.dir="$OUT/finetune" checkpoint.save_dir="$OUT/finetune/checkpoints"

    echo "== Validating on the test set, by fairseq's command and by ours"
    fairseq-validate "$OUT/data/splits/random" --user-dir "$(fairseq-signals-ext user-dir)" --task ecg_classification \
        --path "$OUT/finetune/checkpoints/checkpoint_best.pt" --valid-subset test --batch-size 64 --cpu
    fairseq-signals-ext evaluate "$OUT/finetune/checkpoints/checkpoint_best.pt" --data "$OUT/data/splits/random" \
        --subset test --labels "$OUT/data/labels/rhythm" --out "$OUT/evaluation" --overwrite --device cpu
    echo "== Report on one ECG"
    # sed reads to the end: with head, sort could die of a closed pipe, and the demo with it
    RECORD="$(find "$SOURCE" -name '*.hea' | sort | sed -n 1p)"
    fairseq-signals-ext report "$OUT/finetune/checkpoints/checkpoint_best.pt" "$RECORD" --out "$OUT/report" --overwrite
    RESULT="$OUT/evaluation/per_label.csv, with plots beside it: confusion.png, roc.png, ..."
else
    RESULT="none: fewer than 10 recordings of any diagnosis in the cinc2021 map"
fi

echo
echo "Checkpoint:  $OUT/pretrain/checkpoints/checkpoint_best.pt"
echo "Loss curve:  $OUT/loss.png"
echo "The data:    $OUT/data/verify.html"
echo "Metrics:     $RESULT"
[ ! -d "$OUT/report" ] || echo "A report:    $(echo "$OUT"/report/*.html)"
