"""The text of a request that a model's quality is predicted from."""

from collections.abc import Mapping


def prompt_text(fields: Mapping[str, object]) -> str:
    """Return the text of the last user message, or a completion's prompt; of several, the first.

    Flags must have been taken out. What has another shape than OpenAI's, and token ids, have none.
    """
    messages = fields.get("messages")
    if isinstance(messages, list):
        for message in reversed(messages):
            if isinstance(message, Mapping) and message.get("role") == "user":
                return _content_text(message.get("content"))
        return ""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ""


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
