#!/bin/bash
#SBATCH --job-name=ssd300
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

trap 'again=yes; kill -USR1 "$training"' USR1
python train.py experiment=ssd300_voc0712 data.workers=8 trainer.progress=false \
    hydra.run.dir="outputs/slurm/$SLURM_JOB_ID" trainer.resume=auto &
training=$!

# A signal ends `wait` before the training has ended.
while wait "$training"; status=$?; kill -0 "$training" 2>/dev/null; do :; done

if [ "$again" = yes ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
