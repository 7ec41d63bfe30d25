"""`motley serve MODEL --engine vllm`: vLLM in its own environment and process, behind one address.

Nothing here imports torch or vllm: this process launches, watches and passes on.
"""
