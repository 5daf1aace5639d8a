#!/usr/bin/env bash
# The paper's 128 GPUs without a scheduler. On each of the nodes, after the stages prepare and init:
#   NODES=16 NODE=0 FIRST_NODE=node0.example bash examples/pretrain_howto100m/torchrun.sh
# NODE counts from 0; DATA and the videos must be there under the same paths.
set -euo pipefail
export LAUNCHER="torchrun --nnodes ${NODES:-16} --node-rank ${NODE:?} --nproc-per-node ${GPUS:-8}
  --master-addr ${FIRST_NODE:?} --master-port 29500 --no-python"
exec bash "$(dirname "$0")/run.sh" train
