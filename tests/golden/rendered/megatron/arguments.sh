# The placement; copied from the plan.
set -- "$@" \
  --tensor-model-parallel-size 2 \
  --context-parallel-size 1 \
  --pipeline-model-parallel-size 3 \
  --num-layers 28 \
  --num-attention-heads 24 \
  --num-query-groups 8 \
  --kv-channels 128 \
  --seq-length 4096 \
  --max-position-embeddings 4096 \
  --micro-batch-size 1 \
  --global-batch-size 32 \
  --pipeline-model-parallel-layout 'Et*8|t*10|t*10L' \
  --group-query-attention \
  --bf16 \
  --grad-reduce-in-bf16 \
  --sequence-parallel \
  --use-distributed-optimizer \
  --overlap-grad-reduce
