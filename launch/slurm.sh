#!/usr/bin/env bash
#SBATCH --job-name=shmemtp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=00:10:00
#
#     sbatch launch/slurm.sh generate --model DIR --prompt "..."
#     sbatch --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh ...    (sbatch's own options win over those above)
#
# One task is one PE. Each PE takes the GPU of its local rank by itself; Slurm must hide none of the node's GPUs from
# it, for a PE stores straight into its peers' memory. Hence --gpu-bind=none, and no --gpus-per-task.
set -euo pipefail

exec srun --mpi=pmix --gpu-bind=none --cpu-bind=none --kill-on-bad-exit=1 shmemtp "$@"
