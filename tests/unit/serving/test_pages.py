"""Pages are counted, shared and given back; none is lost."""

import random

import pytest

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.pages import PAGE_TOKENS, PagePool, chain_keys

TOKENS = list(range(4 * PAGE_TOKENS))


def filled(pool: KVPool, tokens: list[int], salt: int = 0) -> SequenceCache:
    """Return a cache that computed what it did not share, and published it."""
    cache = SequenceCache(pool, salt)
    cache.share_prefix(tokens)
    assert cache.reserve(len(tokens) - cache.length)
    cache.commit(len(tokens) - cache.length)
    cache.publish(tokens)
    return cache


def test_a_sequence_takes_the_longest_known_beginning():
    """Full pages of the same tokens are shared, those behind the first other token are not."""
    pool = KVPool(20)
    first = filled(pool, TOKENS[:200])
    second = SequenceCache(pool)
    second.share_prefix([*TOKENS[:150], 7, 7, 7, 7])
    assert second.length == 128
    assert second.pages == first.pages[:2]
    assert (pool.pages.query_tokens, pool.pages.hit_tokens) == (200 + 154, 128)


def test_at_least_the_last_token_is_left_to_compute():
    """A prompt of whole pages that are all known still computes its last page: it needs logits."""
    pool = KVPool(20)
    filled(pool, TOKENS[:129])
    for length, shared in ((128, 64), (129, 128), (64, 0), (65, 64)):
        cache = SequenceCache(pool)
        cache.share_prefix(TOKENS[:length])
        assert cache.length == shared


def test_adapters_share_no_pages():
    """Keys and values depend on the adapter, so that its identity is part of the chain."""
    pool = KVPool(20)
    filled(pool, TOKENS, salt=1)
    assert filled(pool, TOKENS, salt=2).length == len(TOKENS)
    assert pool.pages.hit_tokens == 0


def test_the_key_of_a_page_depends_on_all_before_it():
    """The same 64 tokens behind another beginning are another page."""
    keys = chain_keys(TOKENS, 0)
    others = chain_keys([-1, *TOKENS[1:]], 0)
    assert len(keys) == 4
    assert not set(keys) & set(others)
    assert chain_keys(TOKENS, 0, keys[:2]) == keys


def test_unused_pages_stay_known_until_their_room_is_needed():
    """The least recently used goes first, and within a sequence its last page."""
    pool = KVPool(4)
    for tokens in (TOKENS[:130], [9] * 65):
        cache = filled(pool, tokens)
        cache.release()
    assert pool.pages.num_available == 4
    assert pool.pages.num_in_use == 0
    other = SequenceCache(pool)
    assert other.reserve(2 * PAGE_TOKENS)
    assert SequenceCache(pool).num_pages_to_admit(TOKENS[:130], 0) == 3
    again = SequenceCache(pool)
    again.share_prefix(TOKENS[:130])
    assert again.length == 64
    again.release()
    other.release()
    pool.pages.check_idle()


def test_room_that_is_not_there_is_not_taken():
    """A reservation that does not fit takes no page at all."""
    pool = KVPool(3)
    cache = SequenceCache(pool)
    assert not cache.reserve(4 * PAGE_TOKENS)
    assert cache.pages == []
    assert cache.reserve(3 * PAGE_TOKENS)
    assert not SequenceCache(pool).reserve(1)


def test_a_held_or_lost_page_is_noticed():
    """The check at idle names what is still held."""
    pool = KVPool(3)
    cache = filled(pool, TOKENS[:70])
    with pytest.raises(AssertionError, match=r"pages \[1, 2\] are held"):
        pool.pages.check_idle()
    cache.release()
    pool.pages.check_idle()
    with pytest.raises(AssertionError):
        pool.pages.give_back([1])


@pytest.mark.parametrize("seed", range(5))
def test_after_thousands_of_random_moves_every_page_is_free(seed):
    """Sequences of few beginnings come, grow, roll back and go; counts always add up."""
    rng = random.Random(seed)
    pool = KVPool(24)
    beginnings = [[kind] * 300 for kind in range(3)]
    alive: list[tuple[SequenceCache, list[int]]] = []
    for _ in range(3000):
        kind = rng.random()
        if kind < 0.4 and len(alive) < 6:
            tokens = [*rng.choice(beginnings)[: rng.randint(1, 300)], rng.randint(5, 6)]
            cache = SequenceCache(pool)
            if cache.num_pages_to_admit(tokens, 1) <= pool.pages.num_available:
                cache.share_prefix(tokens)
                assert cache.reserve(len(tokens) + 1 - cache.length)
                alive.append((cache, tokens))
        elif alive:
            cache, tokens = rng.choice(alive)
            step = min(rng.randint(1, 100), len(tokens) - cache.length, cache.num_reserved_rows)
            cache.commit(step)
            if kind < 0.5:
                cache.roll_back(cache.length - rng.randint(0, step))
            cache.publish(tokens)
            if kind > 0.8:
                cache.release()
                alive.remove((cache, tokens))
        held = {page for cache, _ in alive for page in cache.pages}
        assert pool.pages.num_in_use == len(held)
    for cache, _ in alive:
        cache.release()
    pool.pages.check_idle()


def test_an_empty_pool_gives_nothing():
    """The pool of a draft that does not exist has no pages."""
    assert PagePool(0).num_available == 0
    assert not SequenceCache(KVPool(0)).reserve(1)
