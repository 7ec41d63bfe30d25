"""One OpenAI endpoint over many models and replicas."""
