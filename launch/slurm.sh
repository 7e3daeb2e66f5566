#!/bin/bash
# One run on SLURM: a process on each node (JAX finds the nodes by itself), requeued when preempted.
#
#   sbatch launch/slurm.sh --config=configs/cct.py:ferplus --config.data.dir=FOLDER --workdir=DIR
#
# Submit from the project's folder, with its environment active; every node must see both, and DIR.
# Set nodes, GPUs, cores and time for your cluster. The run is asked to save two minutes before its
# time is over; it then exits with 75, is requeued, and continues.

#SBATCH --job-name=ferjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ferjax-%j.log

# The one process of a node takes all of its GPUs; JAX by itself would give it the first alone.
if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# Processes that exit with 75 do so one after the other: the first must not have the rest killed.
# In the background, so that a SIGTERM to this script alone can be passed on.
srun --kill-on-bad-exit=0 python -m ferjax.main --distributed "$@" &
step=$!
trap 'kill -TERM "$step"' TERM
while kill -0 "$step" 2>/dev/null; do
  wait "$step"  # ends early when the trap runs
done
wait "$step"
code=$?
[ "$code" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
