"""Prompts of unlike kinds out of files of the installed packages, divided by file.

Each file belongs to one part: adapters are trained on the first, the predictor on prompts of the second,
and what is reported comes from the third. A prompt that shares much of its wording with an earlier part,
or with a prompt before it, is left out.
"""

import hashlib
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "headers": ("torch/include/c10/**/*.h", "torch/include/ATen/core/**/*.h"),
    "stubs": ("mypy/typeshed/stdlib/**/*.pyi",),
    "mathematics": ("sympy/*/tests/*.py",),
    "prose": ("*.dist-info/METADATA", "*/**/*.md", "*/**/*.rst"),
    "runtime": ("mypyc/**/*.c", "**/*.cpp", "**/*.pyx"),
    "lexers": ("pygments/lexers/*.py",),
    "graphs": ("networkx/algorithms/**/*.py",),
    "models": ("transformers/models/*/modeling_*.py",),
}
"""By domain: which files of the installed packages."""

TRAINING, FITTING, JUDGED = "training", "fitting", "judged"
_PARTS = ((0.5, TRAINING), (0.75, FITTING), (1.0, JUDGED))
"""Where the parts end in the unit interval onto which a file's digest falls."""

PROMPT_CHARACTERS = 400
MOST_PROMPTS_A_FILE = 6
MOST_TRAINING_CHARACTERS = 300_000
MOST_SHARED_FRACTION = 0.3
"""Of a prompt's shingles that may stand in earlier parts or prompts."""
SHINGLE_WORDS = 5


@dataclass(frozen=True, slots=True)
class Prompt:
    """A few whole lines of one file."""

    domain: str
    text: str


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything the benchmark reads."""

    training: Mapping[str, Sequence[str]]
    """Documents by domain."""
    fitting: Sequence[Prompt]
    judged: Sequence[Prompt]
    num_near_duplicates: int
    """Prompts that were left out."""

    def digest(self) -> str:
        """Return a hash of all of it."""
        made = hashlib.sha256()
        for documents in self.training.values():
            made.update("\0".join(documents).encode())
        for prompt in [*self.fitting, *self.judged]:
            made.update(prompt.text.encode())
        return made.hexdigest()


def read_texts(*, fitting: int, judged: int) -> Texts:
    """Read the domains.

    Args:
        fitting: Prompts a domain for the predictor, at the most.
        judged: Prompts a domain that are reported, at the most.

    Raises:
        FileNotFoundError: If a domain's packages are not installed.
    """
    files = {domain: _files(patterns) for domain, patterns in DOMAINS.items()}
    for domain, found in files.items():
        if {part_of(path) for path in found} != {TRAINING, FITTING, JUDGED}:
            raise FileNotFoundError(f"{domain}: {DOMAINS[domain]} are not installed; make setup")
    training = {domain: list(_training_texts(found)) for domain, found in files.items()}
    seen = {shingle for texts in training.values() for text in texts for shingle in shingles(text)}
    found, left_out = {}, 0
    for part, most in ((FITTING, fitting), (JUDGED, judged)):
        offered = {domain: _prompts(domain, files[domain], part) for domain in DOMAINS}
        kept = {domain: distinct(prompts, seen, most=most) for domain, prompts in offered.items()}
        found[part] = [prompt for prompts, _ in kept.values() for prompt in prompts]
        left_out += sum(number for _, number in kept.values())
    return Texts(training, found[FITTING], found[JUDGED], left_out)


def part_of(path: str) -> str:
    """Return which part a file belongs to; the same on every machine."""
    position = int.from_bytes(hashlib.sha256(b"part" + path.encode()).digest()[:8]) / 2**64
    return next(part for end, part in _PARTS if position < end)


def distinct(prompts: Iterable[Prompt], seen: set[int], *, most: int) -> tuple[list[Prompt], int]:
    """Return prompts whose wording is new, and how many were not; `seen` gains theirs.

    Args:
        prompts: In order of preference.
        seen: Shingles of everything before.
        most: When to stop.
    """
    kept: list[Prompt] = []
    num_near_duplicates = 0
    for prompt in prompts:
        if len(kept) == most:
            break
        own = shingles(prompt.text)
        if shared_fraction(own, seen) > MOST_SHARED_FRACTION:
            num_near_duplicates += 1
            continue
        seen |= own
        kept.append(prompt)
    return kept, num_near_duplicates


def shingles(text: str) -> set[int]:
    """Return hashes of all runs of `SHINGLE_WORDS` words."""
    words = text.split()
    runs = (words[start : start + SHINGLE_WORDS] for start in range(len(words)))
    return {
        int.from_bytes(hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest())
        for run in runs
        if len(run) == SHINGLE_WORDS
    }


def shared_fraction(own: Collection[int], seen: Collection[int]) -> float:
    """Return the share of a text's shingles that were seen; a text too short for one is all seen."""
    return sum(one in seen for one in own) / len(own) if own else 1.0


def cut(text: str) -> list[str]:
    """Cut a file into pieces of whole lines of about `PROMPT_CHARACTERS`; the short rest is dropped."""
    pieces, piece = [], ""
    for line in text.splitlines(keepends=True):
        piece += line[:PROMPT_CHARACTERS]
        if len(piece) >= PROMPT_CHARACTERS:
            pieces.append(piece)
            piece = ""
    return pieces


def _files(patterns: tuple[str, ...]) -> list[str]:
    """Return paths below the installed packages, in an order that tells nothing."""
    root = Path(sysconfig.get_path("purelib"))
    paths = {str(p.relative_to(root)) for pattern in patterns for p in root.glob(pattern)}
    return sorted(paths, key=lambda path: hashlib.sha256(b"order" + path.encode()).digest())


def _read(path: str) -> str:
    full = Path(sysconfig.get_path("purelib")) / path
    return full.read_text(encoding="utf-8", errors="replace")


def _training_texts(files: Iterable[str]) -> Iterator[str]:
    total = 0
    for path in files:
        if part_of(path) == TRAINING and total < MOST_TRAINING_CHARACTERS:
            text = _read(path)[: MOST_TRAINING_CHARACTERS // 8]
            total += len(text)
            yield text


def _prompts(domain: str, files: Iterable[str], part: str) -> Iterator[Prompt]:
    """Yield pieces spread over each file, so that no long one makes up a part."""
    for path in files:
        if part_of(path) != part:
            continue
        pieces = cut(_read(path))
        step = max(1, len(pieces) // MOST_PROMPTS_A_FILE)
        for piece in pieces[step // 2 :: step][:MOST_PROMPTS_A_FILE]:
            yield Prompt(domain, piece)
