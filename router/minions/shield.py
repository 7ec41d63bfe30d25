"""The privacy shield: what is hidden in texts that go to the remote model.

One shield serves one answer: the same value gets the same placeholder throughout, such as
`[EMAIL-1]`, and placeholders in the remote's replies are turned back, so that tasks for the local
model and the answer for the user hold the values again. Off by default; regular expressions find no
names and no addresses.
"""

import re
from collections.abc import Callable, Sequence

from router.minions.asking import Message
from router.minions.config import ShieldConfig

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_IBAN = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b")
_PHONE = re.compile(
    r"(?<![\w.])(?![0-9]{4}-[0-9]{2}-[0-9]{2}\b)(?:\+|00)?[0-9](?:[ ()/-]{0,2}[0-9]){7,14}(?![\w.]?[0-9])"
)
_PLACEHOLDER = re.compile(r"\[(?:EMAIL|IBAN|PHONE)-[0-9]{1,9}\]")


def is_iban(text: str) -> bool:
    """Return whether the check digits are right (ISO 13616: the rearranged number modulo 97)."""
    flat = text.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in flat[4:] + flat[:4])
    return int(digits) % 97 == 1


class Shield:
    """Hides values of the configured kinds, and reveals them."""

    def __init__(self, config: ShieldConfig) -> None:
        self._kinds: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = []
        if config.emails:
            self._kinds.append(("EMAIL", _EMAIL, lambda _: True))
        if config.ibans:  # before telephone numbers: an IBAN's digits would pass for one
            self._kinds.append(("IBAN", _IBAN, is_iban))
        if config.phones:
            self._kinds.append(("PHONE", _PHONE, lambda _: True))
        self._placeholders: dict[str, str] = {}
        self._values: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """Return `text` with values replaced by placeholders."""
        for kind, pattern, is_one in self._kinds:
            text = pattern.sub(
                lambda found, kind=kind, is_one=is_one: (  # type: ignore[misc]
                    self._placeholder(kind, found[0]) if is_one(found[0]) else found[0]
                ),
                text,
            )
        return text

    def hide_all(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return `messages` with their contents hidden."""
        if not self._kinds:
            return messages
        return [{**message, "content": self.hide(message["content"])} for message in messages]

    def reveal(self, text: str) -> str:
        """Return `text` with this shield's placeholders replaced by their values."""
        if not self._values:
            return text
        return _PLACEHOLDER.sub(lambda found: self._values.get(found[0], found[0]), text)

    def _placeholder(self, kind: str, value: str) -> str:
        placeholder = self._placeholders.get(value)
        if placeholder is None:
            placeholder = f"[{kind}-{len(self._values) + 1}]"
            self._placeholders[value] = placeholder
            self._values[placeholder] = value
        return placeholder
