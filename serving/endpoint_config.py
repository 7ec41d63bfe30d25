"""How the endpoint lets requests in, as one frozen value."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import ByteSize, Field, model_validator

from planner.config import StrictModel


class EndpointConfig(StrictModel):
    """Keys, TLS, adapter folders and time limits."""

    api_key_file: Path | None = None
    """Keys of users, one a line; MOTLEY_API_KEYS adds to them."""
    admin_key_file: Path | None = None
    """Keys that may load and unload adapters too; MOTLEY_ADMIN_KEYS adds to them."""
    tls_cert: Path | None = None
    """Certificate chain in PEM; with it the endpoint speaks HTTPS only."""
    tls_key: Path | None = None
    """The certificate's private key in PEM."""
    adapter_roots: tuple[Path, ...] = ()
    """Folders that clients may have adapters loaded from. Without any: every folder where the
    endpoint listens on loopback, none elsewhere."""
    adapter_upload_dir: Path | None = None
    """Folder for adapters that clients send, removed when the endpoint ends. None: in the user's
    cache, but where the endpoint listens beyond loopback without keys no upload is taken."""
    max_upload_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(2 << 30)
    """Largest upload of an adapter."""
    max_adapter_rank: int = Field(default=256, ge=1)
    """Largest rank of an adapter that clients may have loaded."""
    request_timeout_seconds: float = Field(default=3600.0, gt=0)
    """Longest a request may take, waiting included; then it ends with status 408."""
    drain_seconds: float = Field(default=25.0, ge=0)
    """After SIGTERM or SIGINT, for running requests to finish; Kubernetes kills after 30."""

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"{missing} is missing; TLS needs a certificate and its key")
        return self
