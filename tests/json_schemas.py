"""Random JSON schemas of what a grammar holds."""

import random
from typing import Any

FORMATS = ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname")
PATTERNS = ("^[a-c]{1,3}$", "^(yes|no)$", "^[A-Z][0-9]{2}$")
WORDS = ("red", "dark blue", "naïve", 'a "b"', "", "x\\y")


class SchemaMaker:
    """Makes schemas from a seed: nesting, enums, arrays, `$ref`, formats, numeric bounds."""

    def __init__(self, seed: int) -> None:
        """Draw with `seed`."""
        self._random = random.Random(seed)

    def schema(self) -> dict[str, Any]:
        """Return an object schema, some of whose parts stand under `$defs`."""
        self._names = [f"part{i}" for i in range(self._random.randint(0, 2))]
        definitions = {name: self._node(2, names=()) for name in self._names}
        schema = self._object(0)
        return schema | ({"$defs": definitions} if definitions else {})

    def _node(self, depth: int, names: tuple[str, ...] | None = None) -> dict[str, Any]:
        names = tuple(self._names) if names is None else names
        if names and self._random.random() < 0.2:
            return {"$ref": f"#/$defs/{self._random.choice(names)}"}
        if 0 < depth < 3 and self._random.random() < 0.03:
            return self._again()
        makers = [self._string, self._number, self._integer, self._choice, self._simple]
        if depth < 3:
            makers += [self._array, self._object, self._any_of]
        maker = self._random.choice(makers)
        if maker in (self._array, self._object, self._any_of):
            return maker(depth, names)
        return maker()

    def _object(self, depth: int, names: tuple[str, ...] | None = None) -> dict[str, Any]:
        keys = [f"key{i}" for i in range(self._random.randint(1, 3))]
        required = [key for key in keys if self._random.random() < 0.7]
        return {
            "type": "object",
            "properties": {key: self._node(depth + 1, names) for key in keys},
            "required": required,
            "additionalProperties": False,
        }

    def _array(self, depth: int, names: tuple[str, ...] | None) -> dict[str, Any]:
        least = self._random.randint(0, 2)
        schema: dict[str, Any] = {
            "type": "array",
            "items": self._node(depth + 1, names),
            "minItems": least,
            "maxItems": least + self._random.randint(0, 1),
        }
        if self._random.random() < 0.3:
            schema["prefixItems"] = [self._node(depth + 1, names)]
            schema["minItems"] = schema["maxItems"] = 2
        return schema

    def _any_of(self, depth: int, names: tuple[str, ...] | None) -> dict[str, Any]:
        return {"anyOf": [self._node(depth + 1, names) for _ in range(2)]}

    def _again(self) -> dict[str, Any]:
        """Return the whole schema once more, or nothing."""
        return {"anyOf": [{"type": "null"}, {"$ref": "#"}]}

    def _string(self) -> dict[str, Any]:
        kind = self._random.randrange(3)
        if kind == 0:
            return {"type": "string", "format": self._random.choice(FORMATS)}
        if kind == 1:
            return {"type": "string", "pattern": self._random.choice(PATTERNS)}
        least = self._random.randint(0, 2)
        return {"type": "string", "minLength": least, "maxLength": least + 4}

    def _number(self) -> dict[str, Any]:
        low = self._random.choice((-2.5, 0.0, 10.25))
        least = self._random.choice(("minimum", "exclusiveMinimum"))
        most = self._random.choice(("maximum", "exclusiveMaximum"))
        bounds = {least: low, most: low + self._random.choice((1, 99.5))}
        if self._random.random() < 0.3:
            return {"allOf": [{"type": "number"}, bounds]}
        return {"type": "number", **bounds}

    def _integer(self) -> dict[str, Any]:
        low = self._random.choice((-1000, -3, 0, 7))
        schema = {"type": "integer", "minimum": low, "exclusiveMaximum": low + 50}
        return schema | ({"multipleOf": 5} if self._random.random() < 0.3 else {})

    def _choice(self) -> dict[str, Any]:
        if self._random.random() < 0.3:
            return {"const": self._random.choice(WORDS)}
        values = [*self._random.sample(WORDS, 2), self._random.choice((None, True, 3, 2.5))]
        return {"enum": values}

    def _simple(self) -> dict[str, Any]:
        return {"type": self._random.choice(("boolean", "null", ["boolean", "null"]))}
