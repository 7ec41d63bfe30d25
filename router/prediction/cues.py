"""Dense cues of a prompt: its length and make-up, cheap to take and hard to hash."""

import math

import numpy as np
from numpy.typing import NDArray

CUES = (
    "length",
    "words",
    "word_length",
    "digits",
    "signs",
    "capitals",
    "non_latin",
    "lines",
    "question_marks",
    "dollars",
    "backslashes",
    "code",
    "small_start",
    "question_end",
    "full_stop_end",
)
"""Their names, in the order of the array. All are near [0, 1] on everyday prompts."""

_CODE = (b"```", b"def ", b"class ", b"import ", b"#include", b"function ", b"assert ")
_DIGIT, _SIGN, _CAPITAL, _FOREIGN, _SPACE = 1, 2, 3, 4, 5


def _class_table() -> NDArray[np.uint8]:
    """Return the class of every byte of UTF-8; 0 for small letters."""
    table = np.zeros(256, dtype=np.uint8)
    for code in range(256):
        letter = chr(code)
        if code >= 0x80:
            table[code] = _FOREIGN
        elif letter.isdigit():
            table[code] = _DIGIT
        elif letter.isupper():
            table[code] = _CAPITAL
        elif letter.isspace():
            table[code] = _SPACE
        elif not letter.isalpha():
            table[code] = _SIGN
    return table


_CLASSES = _class_table()


def cues_of(text: str, content: bytes) -> NDArray[np.float32]:
    """Return the cues of a text that is also given in UTF-8. Shape: (len(CUES),)."""
    num_bytes = max(len(content), 1)
    classes = _CLASSES[np.frombuffer(content, dtype=np.uint8)]
    counts = np.bincount(classes, minlength=6)
    is_space = classes == _SPACE
    # Words begin where no space follows a space; counting takes a tenth of splitting.
    num_words = int(np.count_nonzero(is_space[:-1] & ~is_space[1:])) + bool(
        len(is_space) and not is_space[0]
    )
    num_marks = content.count(b"?")
    return np.array(
        (
            math.log1p(num_bytes) / 8,
            math.log1p(num_words) / 6,
            min(num_bytes / max(num_words, 1), 20) / 10,
            5 * counts[_DIGIT] / num_bytes,
            5 * counts[_SIGN] / num_bytes,
            5 * counts[_CAPITAL] / num_bytes,
            counts[_FOREIGN] / num_bytes,
            20 * content.count(b"\n") / num_bytes,
            min(num_marks, 3) / 3,
            20 * content.count(b"$") / num_bytes,
            20 * content.count(b"\\") / num_bytes,
            float(any(word in content for word in _CODE)),
            float(text[:1].islower()),
            float(text[-1:] == "?"),
            float(text[-1:] == "."),
        ),
        dtype=np.float32,
    )
