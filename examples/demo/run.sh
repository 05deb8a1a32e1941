#!/usr/bin/env bash
# The whole way from recordings to a pretrained model and its loss curve, in minutes on two CPU cores.
#   DATA=<folder of WFDB records>   real recordings instead of simulated ones
#   OUT=<folder>                    where everything goes (default runs/demo)
#   TRAIN_ARGS="..."                more options for fairseq-hydra-train
set -euo pipefail
cd "$(dirname "$0")/../.."
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
# status 1 says that some recordings were rejected, which rejected.csv explains; the others are there
python manifests/prepare.py wfdb "$SOURCE" --out "$OUT/data" --resume || [ -s "$OUT/data/all.tsv" ]
python manifests/split.py "$OUT/data" --name random --overwrite
python manifests/verify.py "$OUT/data"

echo "== Pretraining; a run that was stopped goes on"
# shellcheck disable=SC2086
fairseq-hydra-train --config-dir "$PWD/examples/ecg_fm/pretraining" --config-name tiny \
    task.data="$OUT/data/splits/random" common.user_dir="$(fairseq-signals-ext user-dir)" \
    hydra.run.dir="$OUT/pretrain" checkpoint.save_dir="$OUT/pretrain/checkpoints" ${TRAIN_ARGS:-}

fairseq-signals-ext curve "$OUT/pretrain" --out "$OUT/loss.png" > /dev/null
echo
echo "Checkpoint:  $OUT/pretrain/checkpoints/checkpoint_best.pt"
echo "Loss curve:  $OUT/loss.png"
echo "The data:    $OUT/data/verify.html"
