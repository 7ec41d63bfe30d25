"""One fine-tuning job in one process group: `motley finetune local`."""
