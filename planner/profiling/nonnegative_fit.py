"""Non-negative least squares on a handful of unknowns, without a numeric library.

    minimise  sum over rows of (row . x - value)^2   where  x >= 0

The active-set method of Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23: the
unknowns that are above zero are fitted freely; one that would go below zero is stopped there, and
one whose gradient says that raising it helps is let go.
"""

from collections.abc import Sequence

_TOLERANCE = 1e-12


def nonnegative_fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Return the unknowns that fit best, each at least 0.

    Columns are brought to one size first, so unknowns of any unit may stand side by side. An
    unknown whose column is zero stays 0.

    Args:
        rows: Equations, as coefficients. Shape: (equations, unknowns).
        values: What each row should give. Shape: (equations,).

    Raises:
        ValueError: If there is no row, or rows and values do not fit each other.
    """
    if not rows or len(rows) != len(values) or len({len(row) for row in rows}) != 1:
        raise ValueError(f"{len(rows)} rows and {len(values)} values; give equal rows, one a value")
    sizes = [sum(row[k] ** 2 for row in rows) ** 0.5 for k in range(len(rows[0]))]
    scaled = [
        [a / size if size else 0.0 for a, size in zip(row, sizes, strict=True)] for row in rows
    ]
    unknowns = _active_set(*_normal_equations(scaled, values))
    return [x / size if size else 0.0 for x, size in zip(unknowns, sizes, strict=True)]


def _normal_equations(
    rows: Sequence[Sequence[float]], values: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    places = range(len(rows[0]))
    gram = [[sum(row[i] * row[j] for row in rows) for j in places] for i in places]
    right = [sum(row[i] * y for row, y in zip(rows, values, strict=True)) for i in places]
    return gram, right


def _active_set(gram: list[list[float]], right: list[float]) -> list[float]:
    count = len(right)
    x = [0.0] * count
    free: list[int] = []
    enough = _TOLERANCE * max(1.0, *map(abs, right))
    # Each round frees one unknown for good or ends; three rounds an unknown is the usual bound.
    for _ in range(3 * count):
        gradient = [
            right[i] - sum(gram[i][j] * x[j] for j in range(count)) if i not in free else 0.0
            for i in range(count)
        ]
        best = max(range(count), key=gradient.__getitem__)
        if gradient[best] <= enough:
            break
        free.append(best)
        x = _settle(gram, right, x, free)
    return x


def _settle(
    gram: list[list[float]], right: list[float], x: list[float], free: list[int]
) -> list[float]:
    """Fit the free unknowns; those that would fall below zero stop there and leave `free`."""
    while free:
        wanted = dict(zip(free, _solve(gram, right, free), strict=True))
        below = [i for i in free if wanted[i] <= 0]
        if not below:
            return [wanted.get(i, 0.0) for i in range(len(x))]
        step = min(x[i] / (x[i] - wanted[i]) if x[i] > 0 else 0.0 for i in below)
        x = [x[i] + step * (wanted.get(i, 0.0) - x[i]) for i in range(len(x))]
        stopped = [i for i in below if x[i] <= _TOLERANCE]
        for i in stopped or below[:1]:
            x[i] = 0.0
            free.remove(i)
    return x


def _solve(gram: list[list[float]], right: list[float], places: list[int]) -> list[float]:
    """Solve the equations of some unknowns by elimination with pivots."""
    system = [[*(gram[i][j] for j in places), right[i]] for i in places]
    size = len(places)
    for k in range(size):
        pivot = max(range(k, size), key=lambda i: abs(system[i][k]))
        system[k], system[pivot] = system[pivot], system[k]
        if abs(system[k][k]) < _TOLERANCE:
            system[k][k] = _TOLERANCE  # two columns say the same: either may carry it
        for i in range(k + 1, size):
            factor = system[i][k] / system[k][k]
            system[i] = [a - factor * b for a, b in zip(system[i], system[k], strict=True)]
    solution = [0.0] * size
    for k in reversed(range(size)):
        known = sum(system[k][j] * solution[j] for j in range(k + 1, size))
        solution[k] = (system[k][size] - known) / system[k][k]
    return solution
