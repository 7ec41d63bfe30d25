"""A JSON schema whose texts and lists have an end, for models that find none by themselves."""

from router.minions.asking import Schema


def bounded(schema: Schema, *, text_characters: int, max_items: int) -> dict[str, object]:
    """Return `schema` with `maxLength` on its texts and `maxItems` on its lists."""
    bounds: dict[str, object] = {}
    types = schema.get("type")
    if types == "string" or (isinstance(types, list) and "string" in types):
        bounds["maxLength"] = text_characters
    if types == "array":
        bounds["maxItems"] = max_items

    def inner(value: object) -> object:
        if isinstance(value, dict):
            return bounded(value, text_characters=text_characters, max_items=max_items)
        return [inner(each) for each in value] if isinstance(value, list) else value

    return {name: inner(value) for name, value in schema.items()} | bounds
