"""llguidance behind the engine's `TokenMask`."""

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from serving.engine.draft_tree import DraftTree
from serving.engine.grammar import allowed_prefix, path_masks
from serving.errors import ModelError, RequestError

pytest.importorskip("llguidance", reason="the serving extra of an older set-up lacks llguidance")

from serving.engine.guidance import MOST_SOURCE_CHARACTERS, GrammarCompiler

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
    mask = compiler.compile("json_schema", SCHEMA).start()
    for token in tokenizer.encode('{"n": 12}').ids:
        assert mask.allowed()[token]
        assert not mask.allowed()[END]
        assert mask.advance(token)
    assert mask.allowed().nonzero().flatten().tolist() == [END, 3]


def test_a_forbidden_token_is_refused_and_changes_nothing(tokenizer, compiler):
    """After a refusal the mask is what it was, and the right token still passes."""
    mask = compiler.compile("regex", "[ab]+c").start()
    (wrong,) = tokenizer.encode("z").ids
    (right,) = tokenizer.encode("a").ids
    before = mask.allowed()
    assert not mask.advance(wrong)
    assert not mask.advance(END)
    assert torch.equal(mask.allowed(), before)
    assert mask.advance(right)


def test_an_end_of_text_amid_a_grammar_is_a_dead_end(tokenizer, compiler):
    """The end ends a text and is no word of it: what only it could continue allows nothing."""
    mask = compiler.compile("grammar", 'start: "a" <|im_end|> "b"').start()
    (a,) = tokenizer.encode("a").ids
    assert mask.advance(a)
    assert not mask.allowed().any()
    assert not mask.advance(END)
    assert mask.error is None


def test_an_id_behind_the_tokenizers_last_is_refused(tokenizer, compiler):
    """Ids that only pad the embedding are no failure of the grammar, which others follow too."""
    mask = compiler.compile("regex", "[ab]+c").start()
    for token in (tokenizer.get_vocab_size(), WIDTH - 1):
        assert not mask.advance(token)
    assert mask.error is None


def test_roll_back_undoes_tokens_and_ends(tokenizer, compiler):
    """Rolling back over an end and a token gives the masks that stood there."""
    mask = compiler.compile("grammar", 'start: "a" | "a" "b"').start()
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
    """A forked tree with forbidden nodes: each row that can be reached equals a fresh matcher's."""
    a, b, c, z = (tokenizer.encode(letter).ids[0] for letter in "abcz")
    tree = DraftTree((a, z, b, c, a), (-1, -1, 0, 0, 3), (0, 1, 0, 1, 0))
    grammar = compiler.compile("regex", "a(b|ca)d*")
    mask = grammar.start()
    rows = path_masks(mask, tree.row_paths)
    num_reached = 0
    for path, row in zip(tree.row_paths, rows, strict=True):
        fresh = grammar.start()
        if all(fresh.advance(token) for token in path):
            assert torch.equal(row, fresh.allowed())
            num_reached += 1
    assert num_reached == 5
    assert torch.equal(mask.allowed(), rows[0])
    assert list(allowed_prefix(mask, [a, c, z, a])) == [a, c]
    assert torch.equal(mask.allowed(), rows[0])


def test_a_text_is_finished_where_only_its_end_may_follow(tokenizer, compiler):
    """A grammar that may go on is finished by an end of text alone."""
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    mask = compiler.compile("regex", "ab?").start()
    assert [mask.advance(a), mask.is_finished] == [True, False]
    assert [mask.advance(END), mask.is_finished] == [True, True]
    mask.roll_back(1)
    assert [mask.advance(b), mask.is_finished] == [True, True]


def test_requests_of_one_grammar_do_not_touch_each_other(tokenizer, compiler):
    """A grammar is compiled once; its masks stand where their own tokens took them."""
    grammar = compiler.compile("choice", '["ab", "ba"]')
    assert compiler.compile("choice", '["ab", "ba"]') is grammar
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    first, second = grammar.start(), grammar.start()
    assert first.advance(a)
    assert second.advance(b)
    assert not first.allowed()[a]
    assert second.allowed()[a]


def test_whitespace_between_the_parts_of_a_document_ends(tokenizer, compiler):
    """A model that writes nothing but spaces must go on with its document."""
    mask = compiler.compile("json_schema", SCHEMA).start()
    space = tokenizer.encode(" ").ids[0]
    (brace,) = tokenizer.encode("{").ids
    assert mask.advance(brace)
    assert next(count for count in range(100) if not mask.advance(space)) == 64


def test_a_grammar_that_becomes_too_complex_says_so(tokenizer, caplog):
    """Its masks then allow all and name the reason; the next request has it compiled anew."""
    compiler = GrammarCompiler(
        tokenizer.to_str(), vocabulary_size=WIDTH, end_ids=[END], most_lexer_states=1000
    )
    source = "(a|b)*a(a|b){18}"
    grammar = compiler.compile("regex", source)
    first, second = grammar.start(), grammar.start()
    letters = [tokenizer.encode(letter).ids[0] for letter in "ab"]
    generator = random.Random(0)
    while first.error is None:
        assert first.advance(generator.choice(letters)) or first.error
    for mask in (first, second, grammar.start()):
        assert mask.error == "lexer error: too many states: 1000 >= 1000"
        assert not mask.is_finished
        assert bool(mask.allowed().all())
    fresh = compiler.compile("regex", source).start()
    assert fresh.advance(letters[0])
    assert fresh.error is None
    assert "grammar compiled anew kind=regex" in caplog.text


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", "{"),
        ("json_schema", "3"),
        ("json_schema", '{"type": "foo"}'),
        ("regex", "(a"),
        ("grammar", "start: {{"),
        ("regex", "[a&&b]"),
        ("json_schema", '{"type": "object", "not": {}}'),
    ],
)
def test_a_malformed_grammar_is_refused_in_one_line(compiler, kind, source):
    """The message names the kind of grammar and what is wrong."""
    with pytest.raises(RequestError, match=f"^{kind} .*correct it$") as caught:
        compiler.compile(kind, source)
    assert "\n" not in str(caught.value)


def test_a_source_beyond_the_limit_is_refused(compiler):
    """The line says how long it is and how long it may be."""
    with pytest.raises(RequestError, match=r"has 262145 characters, above 262144; shorten it"):
        compiler.compile("regex", "a" * (MOST_SOURCE_CHARACTERS + 1))


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused():
    """One line with what cannot be read."""
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(ModelError, match="tokenizer: can't determine decoder type") as caught:
        GrammarCompiler(words.to_str(), vocabulary_size=2, end_ids=[0])
    assert "\n" not in str(caught.value)
