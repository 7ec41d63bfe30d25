"""Documents cut into chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.minions.chunks import Document, cut

TEXTS = st.lists(st.text() | st.text("ab é€😀.\n ", min_size=50, max_size=400), max_size=4)


@given(texts=TEXTS, max_bytes=st.integers(4, 200))
def test_chunks_are_slices_that_make_up_their_documents(texts, max_bytes) -> None:
    """Joined they are the documents; none is empty or too long; numbers count from 1."""
    chunks = cut([Document(text) for text in texts], max_bytes=max_bytes)
    for place, text in enumerate(texts):
        own = [chunk for chunk in chunks if chunk.document == place]
        assert "".join(chunk.text for chunk in own) == text
        assert all(text[chunk.start :].startswith(chunk.text) for chunk in own)
    assert all(0 < len(chunk.text.encode()) <= max_bytes for chunk in chunks)
    assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))


@given(text=st.text(max_size=300), max_bytes=st.integers(4, 100))
def test_the_same_document_gives_the_same_chunks(text, max_bytes) -> None:
    """Ids may be cited: nothing but the text and the size decides them."""
    assert cut([Document(text)], max_bytes=max_bytes) == cut([Document(text)], max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaaa bb\n\ncc dd ee", "aaaa bb\n\n"),
        ("aaaa bb\ncc dd ee ff", "aaaa bb\n"),
        ("aaaa bb. cc dd ee ff", "aaaa bb. "),
        ("aaaa bb cc dd ee ff", "aaaa bb cc "),
        ("aaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaa"),
        ("ééééééééééé", "éééééé"),
    ],
)
def test_the_best_end_in_the_second_half_is_taken(text, first) -> None:
    """Paragraph, line, sentence, word, character: in this order."""
    assert cut([Document(text)], max_bytes=12)[0].text == first


def test_a_size_below_one_character_is_refused() -> None:
    """Four bytes is the longest character."""
    with pytest.raises(ValueError, match="at least 4"):
        cut([Document("x")], max_bytes=3)
