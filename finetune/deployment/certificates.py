"""Certificates and keys of a deployment: a CA of its own, the server's TLS, one key a client.

Flower authenticates a SuperNode by a key on a NIST curve, in OpenSSH's form, whose public half the
SuperLink knows; `ssh-keygen -t ecdsa -b 384` makes the same kind. TLS is the server's alone.
Source: flwr 1.41, `flower-supernode --auth-supernode-private-key`, `flwr supernode register`.
"""

import datetime
import ipaddress
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune.errors import DeploymentError

CA_FILE = "ca.crt"
CA_KEY_FILE = "ca.key"
SERVER_FILE = "server.crt"
SERVER_KEY_FILE = "server.key"
CLIENTS_FOLDER = "clients"

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Always in the server's certificate: its own processes reach it there."""

_BACKDATED = datetime.timedelta(minutes=5)
"""A client whose clock is a little behind must not find the certificate not yet valid."""


def private_key_file(folder: Path, client: str) -> Path:
    """Return where a client's private key is: it goes to that client alone."""
    return folder / CLIENTS_FOLDER / f"{client}.key"


def public_key_file(folder: Path, client: str) -> Path:
    """Return where a client's public key is: the server needs it."""
    return folder / CLIENTS_FOLDER / f"{client}.pub"


def write_certificates(
    folder: Path,
    *,
    hosts: Sequence[str],
    clients: Sequence[str],
    days: int,
    now: datetime.datetime,
) -> datetime.datetime:
    """Write a new folder of certificates and keys, whole or not at all.

    Files have mode 0600, folders 0700.

    Args:
        folder: Must not exist; its parent must.
        hosts: Names and addresses by which clients reach the server; loopback is added.
        clients: Their names; each gets a key pair.
        days: How long both certificates are valid.
        now: The present, with time zone.

    Returns:
        When the certificates end.

    Raises:
        DeploymentError: If the folder exists or cannot be written, or a host is no host name.
    """
    names = [_general_name(host) for host in dict.fromkeys([*LOOPBACK_HOSTS, *hosts])]
    until = now + datetime.timedelta(days=days)
    files = _certificates(names, start=now - _BACKDATED, until=until)
    for client in clients:
        key = ec.generate_private_key(ec.SECP384R1())
        files[str(private_key_file(Path(), client))] = _private_bytes(key, is_ssh=True)
        files[str(public_key_file(Path(), client))] = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    _write_new_folder(folder, files)
    return until


def _certificates(
    names: Sequence[x509.GeneralName], *, start: datetime.datetime, until: datetime.datetime
) -> dict[str, bytes]:
    ca_key = ec.generate_private_key(ec.SECP384R1())
    server_key = ec.generate_private_key(ec.SECP384R1())
    ca_name = _name("Motley federation CA")
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(until)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
                critical=False,
            )
        )

    ca = (
        builder(ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    server = (
        builder(_name("Motley federation server"), server_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(server_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )
    return {
        CA_FILE: ca.public_bytes(serialization.Encoding.PEM),
        CA_KEY_FILE: _private_bytes(ca_key, is_ssh=False),
        SERVER_FILE: server.public_bytes(serialization.Encoding.PEM),
        SERVER_KEY_FILE: _private_bytes(server_key, is_ssh=False),
    }


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if host.isascii() and all(
        0 < len(label) < 64 and label.replace("-", "").isalnum() for label in labels
    ):
        return x509.DNSName(host)
    raise DeploymentError(
        f"host {host!r} is neither a host name nor an address; give it without scheme and port"
    )


def _private_bytes(key: ec.EllipticCurvePrivateKey, *, is_ssh: bool) -> bytes:
    form = serialization.PrivateFormat.OpenSSH if is_ssh else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write_new_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists():
        raise DeploymentError(
            f"{folder} exists; choose another --output, keys are never overwritten"
        )
    try:
        # Made with mode 0700, so that nothing in it is ever open to others.
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(content)
        temporary.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> DeploymentError:
    return DeploymentError(
        f"{folder} cannot be written ({error.strerror}); choose another --output"
    )
