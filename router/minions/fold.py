"""Findings as one text for the remote model: grouped, without repetitions, within a size.

Jobs that found nothing are dropped. Equal answers of one group stand once, with every place they
were found in. If the text is too long, first the explanations go, then the citations, then the
answers are cut to an equal share each, and at last the findings that are left over; the text says
how many.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from router.minions.jobs import JobOutput

Order = Literal["by_task", "by_chunk"]

LEAST_ANSWER_CHARACTERS = 40
"""Below this a cut answer says nothing."""


@dataclass(slots=True)
class _Entry:
    answer: str
    places: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    explanations: list[str] = field(default_factory=list)

    def lines(self, *, citations: bool, explanations: bool, most: int | None) -> str:
        answer = self.answer if most is None else _cut(self.answer, most)
        places = ", ".join(self.places) if most is None else self.places[0]
        text = f"- [{places}] {answer}"
        if citations and self.citations:
            text += "".join(f' | "{citation}"' for citation in self.citations)
        if explanations and self.explanations:
            text += f" ({self.explanations[0]})"
        return text


_Groups = dict[str, list[_Entry]]


def fold(outputs: Iterable[JobOutput], order: Order, *, max_bytes: int) -> str:
    """Return the findings as text of at most `max_bytes` of UTF-8; empty if there are none."""
    groups = _grouped(outputs, order)
    for citations, explanations in ((True, True), (True, False), (False, False)):
        text = _text(groups, citations=citations, explanations=explanations)
        if _size(text) <= max_bytes:
            return text
    return _squeezed(groups, max_bytes)


def _grouped(outputs: Iterable[JobOutput], order: Order) -> _Groups:
    found = [output for output in outputs if output.finding and output.finding.answer]
    if order == "by_task":
        found.sort(key=lambda output: (output.job.task_number, output.job.chunk.number))
    else:
        found.sort(key=lambda output: (output.job.chunk.number, output.job.task_number))
    groups: dict[str, dict[str, _Entry]] = {}
    for output in found:
        job, finding = output.job, output.finding
        assert finding is not None
        assert finding.answer is not None
        answer = " ".join(finding.answer.split())
        task, chunk = f"task {job.task_number}", job.chunk.chunk_id
        title = f"Task {job.task_number}: {_cut(job.task.task, 200)}"
        group, place = (title, chunk) if order == "by_task" else (f"Part {chunk}", task)
        entry = groups.setdefault(group, {}).setdefault(answer.casefold(), _Entry(answer))
        entry.places.append(place)
        _add(entry.citations, finding.citation)
        _add(entry.explanations, finding.explanation)
    return {title: list(entries.values()) for title, entries in groups.items()}


def _add(texts: list[str], text: str | None) -> None:
    shown = " ".join((text or "").split())
    if shown and shown not in texts:
        texts.append(shown)


def _text(groups: _Groups, *, citations: bool, explanations: bool, most: int | None = None) -> str:
    return "\n\n".join(
        "\n".join(
            [
                title,
                *[
                    entry.lines(citations=citations, explanations=explanations, most=most)
                    for entry in entries
                ],
            ]
        )
        for title, entries in groups.items()
    )


def _squeezed(groups: _Groups, max_bytes: int) -> str:
    num_entries = sum(map(len, groups.values()))
    share = max(LEAST_ANSWER_CHARACTERS, max_bytes // (2 * num_entries))
    text = _text(groups, citations=False, explanations=False, most=share)
    if _size(text) <= max_bytes:
        return text
    return _whole_lines(text.split("\n"), max_bytes)


def _whole_lines(lines: Sequence[str], max_bytes: int) -> str:
    num_findings = sum(line.startswith("- ") for line in lines)
    room = max_bytes - _size(f"({num_findings} more findings left out)") - 1
    kept: list[str] = []
    for line in lines:
        room -= _size(line) + 1
        if room < 0:
            break
        kept.append(line)
    num_left = num_findings - sum(line.startswith("- ") for line in kept)
    told = f"({num_left} more findings left out)"
    return "\n".join([*kept, told]) if kept else told[:max_bytes]


def _cut(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: max(1, most - 3)] + "..."


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
