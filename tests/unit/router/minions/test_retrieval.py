"""BM25 against its formula."""

import math

from hypothesis import given
from hypothesis import strategies as st

from router.minions.retrieval import K1, B, Retrieval

WORDS = st.lists(st.sampled_from(["oak", "elm", "ash", "fir"]), min_size=1, max_size=12)


def by_formula(texts: list[list[str]], query: list[str], place: int) -> float:
    """Return the score of one text, straight from the definition."""
    mean = sum(map(len, texts)) / len(texts)
    score = 0.0
    for word in set(query):
        holding = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        count = texts[place].count(word)
        score += idf * count * (K1 + 1) / (count + K1 * (1 - B + B * len(texts[place]) / mean))
    return score


@given(texts=st.lists(WORDS, min_size=1, max_size=6), query=WORDS)
def test_scores_are_the_formulas(texts, query) -> None:
    """The index gives what the definition gives, text by text."""
    scores = Retrieval([" ".join(text) for text in texts]).scores(" ".join(query))
    for place, score in enumerate(scores):
        assert math.isclose(score, by_formula(texts, query, place), abs_tol=1e-12)


@given(texts=st.lists(WORDS, min_size=1, max_size=8), query=WORDS, top_k=st.integers(1, 10))
def test_the_best_are_no_worse_than_the_rest(texts, query, top_k) -> None:
    """As many as asked for, in the order of the texts, none left out that scores higher."""
    retrieval = Retrieval([" ".join(text) for text in texts])
    scores = retrieval.scores(" ".join(query))
    best = retrieval.best(" ".join(query), top_k=top_k)
    rest = set(range(len(texts))) - set(best)
    assert len(best) == min(top_k, len(texts))
    assert best == sorted(best)
    assert not rest or min(scores[each] for each in best) >= max(scores[each] for each in rest)


def test_a_query_without_a_hit_gives_the_first_texts() -> None:
    """Something is read all the same; no text and no word is no error."""
    assert Retrieval(["a", "b", "c"]).best("nowhere", top_k=2) == [0, 1]
    assert Retrieval([]).best("x", top_k=2) == []
    assert Retrieval(["", "?"]).scores("x") == [0.0, 0.0]
