"""llguidance behind the engine's `TokenMask`."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from serving.engine.draft_tree import DraftTree
from serving.engine.grammar import mask_behind, tree_masks
from serving.errors import RequestError

pytest.importorskip("llguidance", reason="the serving extra of an older set-up lacks llguidance")

from serving.engine.guidance import GrammarCompiler

FAMILY = Path(__file__).parents[3] / "serving" / "models" / "tiny" / "target"
END = 0
WIDTH = 2100
"""Wider than the tokenizer, as padded embeddings are."""
SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FAMILY / "tokenizer.json"))


@pytest.fixture(scope="module")
def compiler(tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.to_str(), vocabulary_size=WIDTH, end_ids=[END, 3])


def test_a_schema_allows_its_documents_and_then_only_the_end(tokenizer, compiler):
    """Every token of a valid document is allowed where it stands; behind it the text may end."""
    mask = compiler.compile("json_schema", SCHEMA)
    for token in tokenizer.encode('{"n": 12}').ids:
        assert mask.allowed()[token]
        assert not mask.allowed()[END]
        assert mask.advance(token)
    assert mask.allowed().nonzero().flatten().tolist() == [END, 3]


def test_a_forbidden_token_is_refused_and_changes_nothing(tokenizer, compiler):
    """After a refusal the mask is what it was, and the right token still passes."""
    mask = compiler.compile("regex", "[ab]+c")
    (wrong,) = tokenizer.encode("z").ids
    (right,) = tokenizer.encode("a").ids
    before = mask.allowed()
    assert not mask.advance(wrong)
    assert not mask.advance(END)
    assert torch.equal(mask.allowed(), before)
    assert mask.advance(right)


def test_roll_back_undoes_tokens_and_ends(tokenizer, compiler):
    """Rolling back over an end and a token gives the masks that stood there."""
    mask = compiler.compile("lark", 'start: "a" | "a" "b"')
    a, b = tokenizer.encode("a").ids[0], tokenizer.encode("b").ids[0]
    start = mask.allowed()
    assert mask.advance(a)
    behind_a = mask.allowed()
    assert behind_a[END]
    assert behind_a[b]
    assert mask.advance(END)
    assert not mask.advance(b)
    mask.roll_back(1)
    assert torch.equal(mask.allowed(), behind_a)
    assert mask.advance(b)
    assert mask.advance(END)
    mask.roll_back(3)
    assert torch.equal(mask.allowed(), start)


def test_tree_rows_get_the_masks_of_their_paths(tokenizer, compiler):
    """A forked tree with forbidden nodes: each row equals a fresh matcher fed its path."""
    a, b, c, z = (tokenizer.encode(letter).ids[0] for letter in "abcz")
    tree = DraftTree((a, z, b, c, a), (-1, -1, 0, 0, 3), (None,) * 5)
    mask = compiler.compile("regex", "a(b|ca)d*")
    rows = tree_masks(mask, tree)
    for path, row in zip(tree.row_paths, rows, strict=True):
        fresh = mask_behind(compiler.compile("regex", "a(b|ca)d*"), path)
        assert torch.equal(row, torch.ones(WIDTH, dtype=torch.bool) if fresh is None else fresh)
    assert torch.equal(mask.allowed(), rows[0])


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", "{"),
        ("json_schema", "3"),
        ("json_schema", '{"type": "foo"}'),
        ("regex", "(a"),
        ("lark", "start: {{"),
    ],
)
def test_a_malformed_grammar_is_refused_in_one_line(compiler, kind, source):
    """The message names the kind of grammar and what is wrong."""
    with pytest.raises(RequestError, match=f"^{kind} .*correct it$") as caught:
        compiler.compile(kind, source)
    assert "\n" not in str(caught.value)
