#!/bin/sh
# Plan 831ff0210dcc: every replica in the background, the router in front.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/logs"
started=''
trap 'kill $started 2>/dev/null || true; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
env CUDA_VISIBLE_DEVICES=0 vllm serve Qwen/Qwen2.5-7B-Instruct --served-model-name chat --tensor-parallel-size 1 --pipeline-parallel-size 1 --dtype bfloat16 --kv-cache-dtype auto --max-model-len 8192 --gpu-memory-utilization 0.9 --max-num-seqs 256 --max-num-batched-tokens 2048 --host 127.0.0.1 --port 9001 > "$here/logs/chat-l4-on-demand-gcp-us-central1-0.log" 2>&1 &
started="$started $!"
env CUDA_VISIBLE_DEVICES=1 vllm serve Qwen/Qwen2.5-7B-Instruct --served-model-name chat --tensor-parallel-size 1 --pipeline-parallel-size 1 --dtype bfloat16 --kv-cache-dtype auto --max-model-len 8192 --gpu-memory-utilization 0.9 --max-num-seqs 256 --max-num-batched-tokens 2048 --host 127.0.0.1 --port 9002 > "$here/logs/chat-l4-on-demand-gcp-us-central1-1.log" 2>&1 &
started="$started $!"
env CUDA_VISIBLE_DEVICES=2,3 vllm serve Qwen/Qwen2.5-7B-Instruct --served-model-name chat --tensor-parallel-size 2 --pipeline-parallel-size 1 --dtype bfloat16 --kv-cache-dtype fp8 --max-model-len 32768 --gpu-memory-utilization 0.92 --max-num-seqs 384 --max-num-batched-tokens 8192 --enable-prefix-caching --host 127.0.0.1 --port 9003 > "$here/logs/chat-2xh100-sxm-spot-aws-us-east-1-0.log" 2>&1 &
started="$started $!"
env HIP_VISIBLE_DEVICES=4 vllm serve Qwen/Qwen2.5-Coder-32B-Instruct --served-model-name code --tensor-parallel-size 1 --pipeline-parallel-size 1 --quantization fp8 --kv-cache-dtype bfloat16 --max-model-len 32768 --gpu-memory-utilization 0.9 --max-num-seqs 256 --max-num-batched-tokens 2048 --host 127.0.0.1 --port 9004 > "$here/logs/code-mi300x-on-demand-azure-eastus-0.log" 2>&1 &
started="$started $!"
motley serve Qwen/Qwen2.5-0.5B-Instruct --served-model-name tiny --target-device cpu --dtype bfloat16 --max-sequences 16 --host 127.0.0.1 --port 9005 > "$here/logs/tiny-xeon-owned-0.log" 2>&1 &
started="$started $!"
(cd "$here" && exec motley route router.yaml) &
started="$started $!"
wait "$!"
