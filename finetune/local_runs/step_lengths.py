"""The lengths that a job's steps will see, in order, for `motley plan training`."""

from finetune.base_model import load_tokenizer
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import BatchOrder, read_text


def step_lengths(job: LocalJob) -> list[int]:
    """Return the tokens of each sequence of each step, in the order of training.

    Raises:
        FinetuneError: If model or text do not serve.
    """
    tokenizer = load_tokenizer(job.model)
    text = read_text(job, encode=tokenizer.encode, render_chat=tokenizer.render_chat)
    order = BatchOrder(job, num_documents=len(text.training))
    return [
        len(text.training[position])
        for step in range(order.num_steps)
        for position in order.positions(step)
    ]
