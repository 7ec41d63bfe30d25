"""What travels beside an adapter in Flower's messages: reasons of refusals, what a reply is of.

Kept apart from what a message carries, and put around the handlers as one of Flower's mods, so that
every way to carry adapters has it.
"""

import logging
from collections.abc import Callable
from dataclasses import astuple, fields

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from finetune.trust.identity import BaseIdentity

logger = logging.getLogger(__name__)

REFUSED_KEY = "refused"
"""Key of the reason why the node's last reply did not count, in a message to it."""

VERSION_KEY = "version"
"""Key of the adapter's number in a reply: the round of the message it answers."""

TRAINED = ("train", "train.keys")
"""Types of the messages that clients answer by training."""

_DIGESTS = tuple(field.name for field in fields(BaseIdentity))


def declaring(
    client_of: Callable[[Context], str], identity_of: Callable[[str], BaseIdentity] | None
) -> Mod:
    """Return the mod that logs refusals at the client and declares what its replies are of.

    Args:
        client_of: Tells a node's client.
        identity_of: Tells which base model a client loaded; None declares none.
    """

    def declare(message: Message, context: Context, answer: ClientAppCallable) -> Message:
        client, told = client_of(context), message.content["config"]
        if REFUSED_KEY in told:
            logger.warning(
                "server refused the last reply client=%s reason=%r", client, str(told[REFUSED_KEY])
            )
        reply = answer(message, context)
        if message.metadata.message_type in TRAINED:
            config = reply.content["config"]
            config[VERSION_KEY] = int(told["round"])
            if identity_of is not None:
                config.update(zip(_DIGESTS, astuple(identity_of(client)), strict=True))
        return reply

    return declare


def with_reason(content: RecordDict, reason: str | None) -> RecordDict:
    """Return a message's content with the reason why the node's last reply did not count."""
    if reason is None:
        return content
    config = ConfigRecord({**content["config"], REFUSED_KEY: reason})
    return RecordDict({**content, "config": config})


def declared_identity(config: ConfigRecord) -> BaseIdentity | None:
    """Return the base model that a reply declares, None if it declares none.

    Raises:
        KeyError, TypeError: If it declares only a part, or no digests.
    """
    if not any(name in config for name in _DIGESTS):
        return None
    digests = [config[name] for name in _DIGESTS]
    if not all(isinstance(digest, bytes) for digest in digests):
        raise TypeError("a declared digest is not bytes")
    return BaseIdentity(*digests)


def declared_version(config: ConfigRecord) -> int | None:
    """Return the number of the adapter a reply was trained from, None if it does not say.

    Raises:
        TypeError, ValueError: If it is no number.
    """
    return int(config[VERSION_KEY]) if VERSION_KEY in config else None
