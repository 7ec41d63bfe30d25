"""Failures of fine-tuning.

FinetuneError
├── BaseModelError      the base model cannot be found, loaded, or take the adapter asked for
├── ClientDataError     a client's text cannot be read, or there is too little of it
├── SplitError          text cannot be divided among clients as asked
├── DeviceError         this machine cannot train on the device, or in the precision, asked for
├── SequenceParallelError  a model, a plan or a launch does not allow sequence-parallel training
├── ClientStateError    a client's folder cannot hold what it must remember
├── DeploymentError     certificates, keys or a Flower process of a deployment do not serve
├── FlowerError         the installed Flower lacks something the in-process federation stands on
├── PayloadError        a sparse vector's bytes are malformed, or its values cannot be sent
├── RoundError          a round gave no usable update, or a client could not be judged
├── CohortError         too few updates for the rule that shall aggregate them
├── PrivacyBudgetError  the next round would spend more privacy than the job allows
├── SecureSumError      a message of a secure sum is not what the protocol allows, or too few are left
├── LocalRunError       a local job cannot run as asked: its text, its costs or its plan
├── ProcessEndedError   a process of a local run ended by itself
├── RunFolderError      the run folder belongs to something else, or cannot be written
├── AdapterFolderError  a folder does not hold a complete adapter made by `motley finetune run`
└── EndpointError       the serving endpoint cannot be reached, or did not take the adapter
"""

from pathlib import Path
from typing import ClassVar


class FinetuneError(Exception):
    """Root of fine-tuning's failures; its message is one line: what, the value, what to do."""

    exit_code: ClassVar[int] = 2


class BaseModelError(FinetuneError):
    """The base model is unknown, unreadable, or has no module of the names asked for."""


class ClientDataError(FinetuneError):
    """One client's text is missing, malformed or too short."""

    def __init__(self, client: str, problem: str) -> None:
        """Name the client and the problem in one line."""
        super().__init__(f"client {client!r}: {problem}")
        self.client = client
        self.problem = problem


class SplitError(FinetuneError):
    """Text that is to be divided among clients cannot be read, or does not suffice for them."""


class DeviceError(FinetuneError):
    """Local training wants a GPU where there is none, or arithmetic that the device lacks."""


class SequenceParallelError(FinetuneError):
    """Groups of ranks cannot train the model, or not by this plan, or were started wrongly."""


class DeploymentError(FinetuneError):
    """Certificates or keys are missing, or a Flower process of a deployment ended by itself."""


class ClientStateError(FinetuneError):
    """What a client of a deployed job must remember cannot be written."""

    def __init__(self, folder: Path, problem: str) -> None:
        """Name the folder and the problem in one line."""
        super().__init__(f"{folder}: {problem}; choose another folder with --state")
        self.folder = folder


class FlowerError(FinetuneError):
    """The installed Flower differs from those the in-process grid was written against."""


class PayloadError(FinetuneError):
    """Bytes that are no sparse vector, or a vector that cannot be made bytes."""

    def __init__(self, problem: str) -> None:
        """Say in words what the payload is, holds or does."""
        super().__init__(f"payload {problem}")


class RoundError(FinetuneError):
    """A round cannot be completed; earlier rounds are safe in the run folder's checkpoint."""

    exit_code: ClassVar[int] = 1


class CohortError(FinetuneError):
    """An aggregation that withstands attackers got fewer updates than it needs."""

    exit_code: ClassVar[int] = 1


class PrivacyBudgetError(FinetuneError):
    """Differential privacy is spent; earlier rounds are safe in the run folder's checkpoint."""

    exit_code: ClassVar[int] = 1


class SecureSumError(FinetuneError):
    """A secure sum cannot go on: a message was refused, or fewer clients are left than needed."""

    exit_code: ClassVar[int] = 1


class LocalRunError(FinetuneError):
    """A local job's text, costs or plan do not serve."""


class ProcessEndedError(FinetuneError):
    """A process of a local run ended by itself; its steps are safe up to the checkpoint."""

    exit_code: ClassVar[int] = 1


class RunFolderError(FinetuneError):
    """A run folder holds another job, or something that is no run at all."""

    def __init__(self, folder: Path, problem: str) -> None:
        """Name the folder and the problem in one line."""
        super().__init__(f"{folder}: {problem}")
        self.folder = folder


class AdapterFolderError(FinetuneError):
    """A folder lacks a file of an adapter, or its files do not belong together."""

    def __init__(self, folder: Path, problem: str) -> None:
        """Name the folder and the problem in one line."""
        super().__init__(f"{folder}: {problem}")
        self.folder = folder


class EndpointError(FinetuneError):
    """The serving endpoint is unreachable or refused the adapter."""

    exit_code: ClassVar[int] = 1
