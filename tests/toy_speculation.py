"""A toy speculative loop over the engine's pure parts, and the exact law it must follow.

Target and draft are tables (`toy_model.random_table`). The law is computed from the definitions of
the processors in plain Python, prefix by prefix, without any of the engine's code.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from serving.engine.acceptance import draw_children, verify_greedy, verify_sampled
from serving.engine.draft_tree import ROOT, DraftTree, TreeBuilder
from serving.engine.grammar import path_masks
from serving.engine.processors import RowHistories, TokenHistory
from serving.engine.sampling import Purpose, SamplingParams, distribution

Text = tuple[int, ...]


class ToyGrammar:
    """A `TokenMask` over an automaton: `states[state][token]` is the next state, or absent.

    The text is finished in a state that is never left. As a `Grammar` it starts others of its kind.
    """

    error = None

    def __init__(self, states: Sequence[dict[int, int]], vocabulary_size: int) -> None:
        self._states = states
        self._vocabulary_size = vocabulary_size
        self._trail = [0]

    def start(self) -> "ToyGrammar":
        return ToyGrammar(self._states, self._vocabulary_size)

    @property
    def is_finished(self) -> bool:
        return set(self._states[self._trail[-1]].values()) == {self._trail[-1]}

    def advance(self, token: int) -> bool:
        following = self._states[self._trail[-1]].get(token)
        if following is not None:
            self._trail.append(following)
        return following is not None

    def roll_back(self, num_tokens: int) -> None:
        assert num_tokens < len(self._trail)
        del self._trail[len(self._trail) - num_tokens :]

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(self._vocabulary_size, dtype=torch.bool)
        mask[list(self._states[self._trail[-1]])] = True
        return mask


def plain_distribution(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    end_ids: Collection[int] = (),
    allowed: Collection[int] | None = None,
) -> list[float]:
    """Apply every processor by its definition, in the documented order."""
    values = list(logits)
    for token in {*prompt, *generated}:
        factor = params.repetition_penalty
        values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
    for token in set(generated):
        values[token] -= params.frequency_penalty * generated.count(token)
        values[token] -= params.presence_penalty
    for token, bias in params.logit_bias.items():
        values[token] += bias
    banned = set(params.bad_token_ids)
    if len(generated) < params.min_tokens:
        banned |= set(end_ids)
    possible = set(range(len(values))) if allowed is None else set(allowed)
    possible = possible - banned or possible
    values = [v if i in possible else -math.inf for i, v in enumerate(values)]
    highest = max(values)
    if params.is_greedy:
        return [float(i == values.index(highest)) for i in range(len(values))]
    order = sorted(values, reverse=True)
    if 0 < params.top_k < len(values):
        values = [v if v >= order[params.top_k - 1] else -math.inf for v in values]
    weights = [math.exp((v - highest) / params.temperature) for v in values]
    probs = [w / sum(weights) for w in weights]
    mass, last = 0.0, 1.0
    for prob in sorted(probs, reverse=True):
        if mass >= params.top_p:
            break
        mass, last = mass + prob, prob
    if params.top_p < 1:
        probs = [p if p >= last else 0.0 for p in probs]
    floor = params.min_p * max(probs)
    probs = [p if p >= floor else 0.0 for p in probs]
    return [p / sum(probs) for p in probs]


@dataclass
class Toy:
    """Target, draft and request of one experiment."""

    target: torch.Tensor
    draft: torch.Tensor
    params: SamplingParams
    prompt: Text = (0,)
    end_ids: Text = ()
    automaton: Sequence[dict[int, int]] | None = None
    _memo: dict[object, torch.Tensor] = field(default_factory=dict)
    _trees: dict[object, DraftTree] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        return self.target.shape[-1]

    def law(self, num_tokens: int) -> dict[Text, float]:
        """Return the exact probability of every possible text, shorter where a grammar ends it."""
        law = {(): 1.0}
        for _ in range(num_tokens):
            longer = {}
            for text, prob in law.items():
                if self._is_finished(text):
                    longer[text] = prob
                    continue
                for token, share in enumerate(self._exact(text)):
                    longer[*text, token] = prob * share
            law = {text: prob for text, prob in longer.items() if prob > 0}
        return law

    def _state(self, text: Text) -> int:
        state = 0
        for token in text:
            state = self.automaton[state][token]
        return state

    def _is_finished(self, text: Text) -> bool:
        if self.automaton is None:
            return False
        state = self._state(text)
        return set(self.automaton[state].values()) == {state}

    def _exact(self, text: Text) -> list[float]:
        allowed = None
        if self.automaton is not None:
            allowed = self.automaton[self._state(text)].keys()
        last = (*self.prompt, *text)[-1]
        return plain_distribution(
            self.target[last].tolist(),
            self.params,
            self.prompt,
            text,
            end_ids=self.end_ids,
            allowed=allowed,
        )

    def row_probs(self, table: torch.Tensor, text: Text, tree: DraftTree) -> torch.Tensor:
        """Return the engine's distributions of all rows of a tree behind `text`."""
        key = (id(table), text, tree.tokens, tree.parents)
        if key not in self._memo:
            history = TokenHistory(self.prompt, end_ids=self.end_ids)
            history.extend(text)
            masks = None
            if self.automaton is not None:
                grammar = ToyGrammar(self.automaton, self.vocabulary_size)
                assert all(grammar.advance(token) for token in text)
                masks = path_masks(grammar, tree.row_paths)
            last = [(*self.prompt, *text, *path)[-1] for path in tree.row_paths]
            rows = RowHistories(history, tree.row_paths, masks)
            self._memo[key] = distribution(table[last], self.params, rows)
        return self._memo[key]

    def draft_probs(self, text: Text, path: Text) -> torch.Tensor:
        """Return the draft's distribution behind a drafted path."""
        if (text, path) not in self._memo:
            probs = self.row_probs(self.draft, text, DraftTree.chain(path))
            self._memo[text, path] = probs[-1]
        return self._memo[text, path]

    def run(self, make_tree: "TreeMaker", num_tokens: int, uniforms: np.ndarray) -> Text:
        """Generate a text; `uniforms[position, purpose, index]` are its draws."""
        text: Text = ()
        while len(text) < num_tokens:
            start = len(text)

            def noise(offset: int, purpose: Purpose, index: int = 0, start: int = start) -> float:
                return float(uniforms[start + offset, purpose, index])

            tree = self._trees.get((make_tree, text)) or make_tree(self, text, noise)
            if all(probs is None for probs in tree.probs):
                # Chosen without draws: the same in every run.
                self._trees[make_tree, text] = tree
            probs = self.row_probs(self.target, text, tree)
            if self.params.is_greedy:
                verdict = verify_greedy(tree, probs.argmax(-1).tolist())
            else:
                verdict = verify_sampled(tree, probs, noise)
            text += (*(tree.tokens[node] for node in verdict.nodes), verdict.token)
        return text[:num_tokens]


TreeMaker = Callable[[Toy, Text, Callable[..., float]], DraftTree]


def sampled_chain(toy: Toy, text: Text, noise: Callable[..., float]) -> DraftTree:
    """Draw two tokens, one behind the other."""
    return _sampled(toy, text, noise, widths=[1, 1])


def sampled_tree(toy: Toy, text: Text, noise: Callable[..., float]) -> DraftTree:
    """Draw three children without replacement, and one behind each of them."""
    return _sampled(toy, text, noise, widths=[3, 1])


def _sampled(
    toy: Toy, text: Text, noise: Callable[..., float], *, widths: Sequence[int]
) -> DraftTree:
    tokens: list[int] = []
    parents: list[int] = []
    probs: list[torch.Tensor] = []
    level: list[tuple[int, Text]] = [(ROOT, ())]
    for offset, width in enumerate(widths):
        following = []
        for parent, path in level:
            probs_V = toy.draft_probs(text, path)
            uniform = [noise(offset, Purpose.DRAFT, index) for index in range(width)]
            for token, drawn_from_V in draw_children(probs_V, width, uniform.__getitem__):
                following.append((len(tokens), (*path, token)))
                tokens.append(token)
                parents.append(parent)
                probs.append(drawn_from_V)
        level = following
    return DraftTree(tuple(tokens), tuple(parents), tuple(probs))


def chosen_chain(toy: Toy, text: Text, noise: Callable[..., float]) -> DraftTree:
    """Choose the draft's likeliest token twice."""
    path: Text = ()
    for _ in range(2):
        path += (int(toy.draft_probs(text, path).argmax()),)
    return DraftTree.chain(path)


def chosen_tree(toy: Toy, text: Text, noise: Callable[..., float]) -> DraftTree:
    """Grow the five best nodes of two levels, blind to every processor and the grammar."""
    builder, paths = TreeBuilder(beam_width=3), [()]
    for _ in range(2):
        last = [(*toy.prompt, *text, *path)[-1] for path in paths]
        beam = builder.grow(toy.draft[last].log_softmax(-1)[None])
        pairs = zip(beam.parent_rows[0].tolist(), beam.tokens[0].tolist(), strict=True)
        paths = [(*paths[row], token) for row, token in pairs]
    return builder.trees([5])[0]


TREE_MAKERS: dict[str, TreeMaker] = {
    "sampled chain": sampled_chain,
    "chosen chain": chosen_chain,
    "chosen tree": chosen_tree,
    "sampled tree": sampled_tree,
}
