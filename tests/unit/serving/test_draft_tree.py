"""Draft trees, and their growth against a plain search over all paths."""

import pytest
import torch

from serving.engine.draft_tree import ROOT, DraftTree, TreeBuilder


def test_a_chain_is_a_tree_without_forks():
    """Depths count from 1, each path holds all nodes before it."""
    tree = DraftTree.chain([5, 6, 7])
    assert tree.parents == (ROOT, 0, 1)
    assert tree.depths == [1, 2, 3]
    assert tree.paths == [(0,), (0, 1), (0, 1, 2)]
    assert tree.row_paths == [(), (5,), (5, 6), (5, 6, 7)]
    assert tree.children == [[0], [1], [2], []]
    assert len(DraftTree.chain([])) == len(DraftTree()) == 0


def test_a_forked_tree_knows_its_paths():
    """Nodes of two branches see their own ancestors only."""
    tree = DraftTree((1, 2, 3, 4), (ROOT, ROOT, 0, 2), (0, 1, 0, 0))
    assert tree.depths == [1, 1, 2, 3]
    assert tree.paths == [(0,), (1,), (0, 2), (0, 2, 3)]
    assert tree.row_paths[-1] == (1, 3, 4)
    assert tree.children == [[0, 1], [2], [], [3], []]


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ((1,), (0,), "parent 0 of node 0"),
        ((1, 2), (ROOT, 2), "parent 2 of node 1"),
        ((1,), (-2,), "parent -2"),
        ((1, 1), (ROOT, ROOT), "token 1 is twice a child of node -1"),
        ((1, 2), (ROOT,), "2 tokens, 1 parents"),
    ],
)
def test_what_is_no_tree_is_refused(tokens, parents, message):
    """The message names the node."""
    with pytest.raises(ValueError, match=message):
        DraftTree(tokens, parents, (0,) * len(tokens))


def search(tables: torch.Tensor, width: int, depth: int, max_nodes: int):
    """Grow a tree in plain Python, from log-probabilities that depend on the path's hash."""
    nodes: list[tuple[float, int, int, tuple[int, ...]]] = []  # score, parent, token, path
    beam: list[tuple[float, int, tuple[int, ...]]] = [(0.0, ROOT, ())]
    for _ in range(depth):
        level = []
        for score, number, path in beam:
            row = log_probs_behind(tables, path).tolist()
            likeliest = sorted(range(len(row)), key=lambda token, row=row: (-row[token], token))
            for token in sorted(likeliest[:width]):
                level.append((len(nodes) + len(level), score + row[token], number, token, path))
        best = sorted(level, key=lambda node: (-node[1], node[0]))[:width]
        nodes += [(score, parent, token, (*path, token)) for _, score, parent, token, path in level]
        beam = [(s, n, (*path, token)) for n, s, _, token, path in sorted(best)]
    order = sorted(range(len(nodes)), key=lambda n: (-nodes[n][0], n))
    kept = sorted(n for n in order[:max_nodes] if nodes[n][0] > -torch.inf)
    place = {ROOT: ROOT} | {n: i for i, n in enumerate(kept)}
    return [nodes[n][2] for n in kept], [place[nodes[n][1]] for n in kept]


def log_probs_behind(tables: torch.Tensor, path: tuple[int, ...]) -> torch.Tensor:
    return tables[sum((i + 1) * (token + 1) for i, token in enumerate(path)) % len(tables)]


def grow(builder: TreeBuilder, tables: list[torch.Tensor], depth: int) -> None:
    paths = [[()] for _ in tables]
    for _ in range(depth):
        rows = [
            torch.stack([log_probs_behind(table, path) for path in beam])
            for table, beam in zip(tables, paths, strict=True)
        ]
        beam = builder.grow(torch.stack(rows))
        paths = [
            [(*old[r], t) for r, t in zip(rows, tokens, strict=True)]
            for old, rows, tokens in zip(
                paths, beam.parent_rows.tolist(), beam.tokens.tolist(), strict=True
            )
        ]


def assert_ranked(tree: DraftTree, table: torch.Tensor) -> None:
    """Check that siblings are ranked by their log-probability."""
    for row, siblings in enumerate(tree.children):
        log_probs = log_probs_behind(table, tree.row_paths[row])
        ranked = sorted(siblings, key=tree.ranks.__getitem__)
        assert [tree.ranks[node] for node in ranked] == list(range(len(siblings)))
        values = [float(log_probs[tree.tokens[node]]) for node in ranked]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "many-equals"])
@pytest.mark.parametrize(("width", "depth", "max_nodes"), [(1, 4, 3), (3, 3, 8), (9, 2, 100)])
def test_trees_are_the_best_paths_with_ties_to_the_lowest(width, depth, max_nodes, levels):
    """Two sequences grown side by side equal a plain search, also where most scores are equal."""
    generator = torch.Generator().manual_seed(width)
    tables = torch.randn(2, 7, 6, generator=generator)
    if levels:
        tables = (tables * 1.5).round()
    tables[:, :, 5] = -torch.inf
    tables = tables.log_softmax(-1)
    builder = TreeBuilder(beam_width=width)
    grow(builder, list(tables), depth)
    for tree, table, limit in zip(
        builder.trees([max_nodes, max_nodes - 1]), tables, [max_nodes, max_nodes - 1], strict=True
    ):
        tokens, parents = search(table, width, depth, limit)
        assert list(tree.tokens) == tokens
        assert list(tree.parents) == parents
        assert 5 not in tree.tokens
        assert_ranked(tree, table)


def test_a_certain_drafter_gives_a_chain():
    """Where one token has all the probability at each level, the tree has no fork."""
    certain = torch.full((1, 1, 4), -torch.inf)
    certain[..., 2] = 0.0
    builder = TreeBuilder(beam_width=2)
    builder.grow(certain)
    builder.grow(certain.expand(1, 2, 4))
    (tree,) = builder.trees([10])
    assert tree.tokens == (2, 2)
    assert tree.parents == (ROOT, 0)


def test_places_without_a_possible_token_add_no_node_and_displace_none():
    """A beam wider than the possible is filled with token 0; a dead end leaves others their places."""
    first = torch.full((2, 1, 6), -torch.inf)
    first[0, 0, [3, 5]] = 0.0
    builder = TreeBuilder(beam_width=4)
    beam = builder.grow(first.log_softmax(-1))  # nothing is possible in the second sequence: NaN
    assert sorted(beam.tokens[0].tolist()) == [0, 0, 3, 5]
    assert beam.tokens[1].tolist() == [0, 0, 0, 0]
    second = torch.full((2, 4, 6), -torch.inf)
    living = beam.tokens[0].tolist().index(5)
    second[0, living, [1, 2]] = 0.0
    second[1] = 0.0
    beam = builder.grow(second.log_softmax(-1))
    assert sorted(beam.tokens[0].tolist()) == [0, 0, 1, 2]
    tree, nothing = builder.trees([4, 4])
    assert tree.row_paths == [(), (3,), (5,), (5, 1), (5, 2)]
    assert len(nothing) == 0


def test_a_builder_that_never_grew_gives_empty_trees():
    """No level, no node, and no room no node."""
    assert [len(tree) for tree in TreeBuilder(beam_width=2).trees([3, 4])] == [0, 0]
    builder = TreeBuilder(beam_width=2)
    builder.grow(torch.zeros(1, 1, 4).log_softmax(-1))
    assert len(builder.trees([0])[0]) == 0


def test_a_beam_of_no_width_is_refused():
    """The message names the width."""
    with pytest.raises(ValueError, match="beam width 0"):
        TreeBuilder(beam_width=0)
