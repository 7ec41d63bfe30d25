"""The client towards replicas behind TLS."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_server import scripted
from upstream_under_test import (
    HELLO,
    STREAM,
    answering,
    ask,
    event_loop_policy,  # noqa: F401 - every test runs on both loops
    opened,
    read_all,
)

from router.errors import ReplicaFailedError

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


async def test_tls(tmp_path: Path) -> None:
    """Replicas behind https are spoken to, and only if their certificate is good."""
    certificate, key = write_certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with scripted(
        answering(HELLO, STREAM + b"1\r\na\r\n0\r\n\r\n"), tls=server_side
    ) as server:
        async with opened(tls=trusting) as upstream:
            assert (await ask(upstream, server.url)).body == b"hello"
            assert await read_all(await ask(upstream, server.url)) == b"a"
            assert server.num_connections == 1
        async with opened() as upstream:
            with pytest.raises(ReplicaFailedError, match="CERTIFICATE_VERIFY_FAILED"):
                await ask(upstream, server.url)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that vouches for itself; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "replica")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "replica.pem", folder / "replica.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(certificate.public_bytes(pem))
    paths[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
