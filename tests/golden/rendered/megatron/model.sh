# What the plan does not decide: complete it after the model's config.json, as with --swiglu,
# --normalization RMSNorm, --position-embedding-type rope, --disable-bias-linear and, where embedding and
# head are not one table, --untie-embeddings-and-output-weights.
set -- "$@" \
  --hidden-size "${HIDDEN_SIZE:?"set the width of the model"}" \
  --ffn-hidden-size "${FFN_HIDDEN_SIZE:?"set the width of its feed-forward layers"}" \
  --tokenizer-type HuggingFaceTokenizer \
  --tokenizer-model "${TOKENIZER_MODEL:?"set the folder of its tokenizer"}" \
  --data-path "${DATA_PATH:?"set the data, as made by tools/preprocess_data.py"}" \
  --train-iters "${TRAIN_ITERS:?"set the number of steps"}" \
  --lr "${LR:?"set the learning rate"}"
