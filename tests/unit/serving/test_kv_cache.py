"""Keys and values in pages: what is kept, moved and cleaned."""

import torch

from serving.engine.flat_attention import attend
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.spans import Span, Spans


def write(cache: SequenceCache, start: int, count: int, parents=None) -> None:
    """Write rows whose keys are all their own number, values its negative."""
    numbers = torch.arange(start, start + count, dtype=torch.float32).view(1, 1, count, 1)
    keys = numbers.expand(1, 2, count, 32)
    query = torch.zeros(1, 2, count, 32)
    for layer in range(2):
        spans = Spans([Span(cache, 0, count, parents)])
        attend(layer, query, keys, -keys, scaling=1.0, spans=spans)


def contents(cache: SequenceCache) -> list[int]:
    """Return the numbers of the final rows, the same in every layer, key and value."""
    numbers = cache.snapshot()[0][0][0, :, 0].tolist()
    for keys, values in cache.snapshot():
        assert torch.equal(keys, -values)
        assert (keys == torch.tensor(numbers).view(1, -1, 1)).all()
    return [int(number) for number in numbers]


def test_an_accepted_path_of_a_tree_stands_behind_the_prefix():
    """Its slots are gathered before any is written, across the end of a page."""
    for past in (3, 60, 62, 64):
        cache = SequenceCache(KVPool(4))
        write(cache, 0, past)
        cache.commit(past)
        write(cache, 100, 8, parents=[-1, 0, 0, 1, 2, 3, 4, 5])
        cache.commit_path([0, 2, 4, 6])
        assert contents(cache) == [*range(past), 100, 102, 104, 106]


def test_rolling_back_forgets_what_is_behind():
    """Later rows take the place of the forgotten ones."""
    cache = SequenceCache(KVPool(4))
    write(cache, 0, 70)
    cache.commit(70)
    cache.roll_back(62)
    write(cache, 200, 4)
    cache.commit(3)
    assert contents(cache) == [*range(62), 200, 201, 202]


def test_a_page_is_clean_when_it_is_taken_again():
    """Numbers that are not finite, left by a broken adapter, reach no later sequence."""
    pool = KVPool(2)
    cache = SequenceCache(pool)
    keys = torch.full((1, 2, 70, 32), torch.nan)
    attend(0, keys, keys, keys, scaling=1.0, spans=Spans([Span(cache, 0, 70)]))
    cache.commit(70)
    cache.release()
    keys = torch.ones(1, 2, 3, 32)
    spans = Spans([Span(SequenceCache(pool), 0, 3)])
    assert attend(0, keys, keys, keys, scaling=1.0, spans=spans).isfinite().all()


def test_a_fork_begins_alike_and_goes_on_by_itself():
    """Full pages are shared, the open one is copied, and neither sees what the other writes."""
    for length in (3, 63, 64, 70):
        pool = KVPool(8)
        cache = SequenceCache(pool)
        write(cache, 0, 72)
        cache.commit(72)
        fork = cache.fork(length, 5)
        SequenceCache.copy_forked([fork])
        write(fork, 200, 5)
        fork.commit(5)
        write(cache, 300, 4)
        cache.commit(4)
        assert contents(fork) == [*range(length), *range(200, 205)]
        assert contents(cache) == [*range(72), *range(300, 304)]
        cache.release()
        assert contents(fork) == [*range(length), *range(200, 205)]
        fork.release()
        pool.pages.check_idle()


def test_a_fork_without_room_takes_nothing():
    """Where pages lack there is no fork, and the cache is what it was."""
    pool = KVPool(2)
    cache = SequenceCache(pool)
    write(cache, 0, 100)
    cache.commit(100)
    assert cache.fork(100, 5) is None
    assert pool.pages.num_in_use == 2
    cache.release()
    pool.pages.check_idle()
