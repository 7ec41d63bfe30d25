"""LangChain's ChatOpenAI against a real `motley serve` process."""

from typing import Literal

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]
    is_raining: bool


def test_langchain_works(replica_url):
    """Answers, streams, batches, tools, structured output and embeddings."""
    model = ChatOpenAI(
        base_url=f"{replica_url}/v1", api_key="none", model="tiny", temperature=0, max_tokens=600
    )
    answer = model.invoke("Return the length.", max_tokens=12)
    streamed = "".join(chunk.text for chunk in model.stream("Return the length.", max_tokens=12))
    assert streamed == answer.text
    assert answer.usage_metadata["output_tokens"] == 12
    assert len(model.batch(["a", "b"], max_tokens=2)) == 2

    forced = model.bind_tools([Weather], tool_choice="required").invoke("Rome?")
    assert forced.tool_calls
    assert Weather.model_validate(forced.tool_calls[0]["args"])
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Weather, method=method).invoke("Rome?")
        assert isinstance(found, Weather)

    embeddings = OpenAIEmbeddings(
        base_url=f"{replica_url}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    assert len(embeddings.embed_documents(["a", "b"])) == 2
