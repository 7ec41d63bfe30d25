"""The annotated job names every key there is, and what it comments out would be valid too."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from finetune.config import ClientConfig, DeploymentConfig, JobConfig
from finetune.trust.config import PrivacyConfig, RobustConfig, SecureSumConfig

TEXT = (Path(__file__).parents[3] / "configs" / "finetune" / "every-key.yaml").read_text()
UNCOMMENTED = re.sub(r"^( *)# (?= *\w+:)", r"\1", TEXT, flags=re.MULTILINE)


def models_in(annotation):
    """Return every model that an annotation names, and those inside them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inside = [models_in(field.annotation) for field in annotation.model_fields.values()]
        return {annotation}.union(*inside)
    return set().union(*map(models_in, get_args(annotation)))


@pytest.mark.parametrize("model", sorted(models_in(JobConfig), key=lambda m: m.__name__))
def test_every_key_of_every_block_stands_in_the_annotated_job(model):
    """A key that is added to a job is explained there, commented out or not."""
    missing = [
        key for key in model.model_fields if not re.search(rf"(^|[ {{,]){key}:", TEXT, re.MULTILINE)
    ]
    assert not missing, f"{model.__name__}: explain {missing} in configs/finetune/every-key.yaml"


def test_what_is_commented_out_is_valid():
    """Each alternative fits its own block; together they do not, which the comments say."""
    content = yaml.safe_load(UNCOMMENTED)
    assert content["final_rank"] < content["rank"]
    for client in content["clients"]:
        ClientConfig.model_validate(client)
    assert content["clients"][0]["data"]["kind"] == "jsonl"
    trust = content["trust"]
    TypeAdapter(RobustConfig).validate_python(trust["robust"])
    PrivacyConfig.model_validate(trust["privacy"])
    SecureSumConfig.model_validate(trust["secure_sum"])
    DeploymentConfig.model_validate(content["deployment"])


@pytest.mark.parametrize("kind", ["synchronous", "fedbuff", "fedast", "fedcompass"])
def test_every_scheduler_stands_there_as_a_job_takes_it(kind):
    """Each alternative is read as the block of a job that is otherwise dense."""
    content = yaml.safe_load(TEXT)
    content.pop("sparsity")
    whole = yaml.safe_load(UNCOMMENTED)
    flow = re.search(rf"^# (scheduling: {{kind: {kind}.*)$", TEXT, re.MULTILINE)
    content["scheduling"] = whole["scheduling"]
    if flow is not None:
        content["scheduling"] = yaml.safe_load(flow[1])["scheduling"]
    if kind == "fedast":
        content["adapters"] = whole["adapters"]
    job = JobConfig.model_validate(content)
    assert job.scheduling is not None
    assert job.scheduling.kind == kind
