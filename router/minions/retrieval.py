"""Which chunks speak of a query: Okapi BM25.

score(chunk) = sum over the query's words of idf * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean
length)), f the word's count in the chunk, idf = ln(1 + (N - n + 0.5) / (n + 0.5)) with n of the N
chunks holding the word; k1 = 1.5, b = 0.75.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, §3;
the 1 inside the logarithm keeps the weight of frequent words above 0, as Lucene does.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

K1 = 1.5
B = 0.75

_WORD = re.compile(r"\w+")


class Retrieval:
    """An index over some texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._postings: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []
        for place, text in enumerate(texts):
            counts = Counter(_words(text))
            self._lengths.append(counts.total())
            for word, count in counts.items():
                self._postings[word].append((place, count))
        self._mean_length = sum(self._lengths) / len(self._lengths) if self._lengths else 0.0

    def scores(self, query: str) -> list[float]:
        """Return each text's score, 0 for one with none of the query's words."""
        scores = [0.0] * len(self._lengths)
        for word in dict.fromkeys(_words(query)):
            found = self._postings.get(word, ())
            idf = math.log(1 + (len(scores) - len(found) + 0.5) / (len(found) + 0.5))
            for place, count in found:
                norm = 1 - B + B * self._lengths[place] / self._mean_length
                scores[place] += idf * count * (K1 + 1) / (count + K1 * norm)
        return scores

    def best(self, query: str, *, top_k: int) -> list[int]:
        """Return the places of the `top_k` best texts, in the order of the texts.

        Of equal scores the earlier text is better; so a query without a hit gives the first texts.
        """
        scores = self.scores(query)
        ranked = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return sorted(ranked[:top_k])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
