#!/bin/sh
# Island near: run once on each of its nodes, with the node's number in the island.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
node=${1:?"give the number of this node: 0-1"}
shift
: "${MASTER_ADDR:?"set it to an address of node 0 of island far/away, which all nodes reach"}"
case "$node" in
  0) node_rank=1 processes=4 devices=0,1,2,3 ;;
  1) node_rank=2 processes=4 devices=0,1,2,3 ;;
  *) echo "node $node has no part in this job; island near has 0-1" >&2; exit 2 ;;
esac
export NCCL_IB_DISABLE=0
export NCCL_IB_HCA=mlx5_0,mlx5_1
export CUDA_DEVICE_MAX_CONNECTIONS=1
export CUDA_VISIBLE_DEVICES="$devices"
: "${MEGATRON:?"set it to a clone of Megatron-LM"}"
. "$here/arguments.sh"
. "$here/model.sh"
set -- "$@" --nccl-communicator-config-path "$here/nccl-0-near.yaml"
exec torchrun \
  --nnodes=3 \
  --node-rank="$node_rank" \
  --nproc-per-node="$processes" \
  --master-addr="$MASTER_ADDR" \
  --master-port="${MASTER_PORT:-29500}" \
  "$here/start.py" "$MEGATRON/pretrain_gpt.py" "$@"
