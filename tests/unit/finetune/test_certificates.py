"""Certificates and keys of a deployment."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

import motley
from finetune.deployment.certificates import (
    CA_FILE,
    SERVER_FILE,
    SERVER_KEY_FILE,
    private_key_file,
    public_key_file,
    write_certificates,
)
from finetune.deployment.server import read_public_key
from finetune.errors import DeploymentError

NOW = datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC)


@pytest.fixture
def folder(tmp_path):
    """A folder for one more host and two clients, valid for ten days."""
    until = write_certificates(
        tmp_path / "certs",
        hosts=["fl.example.org", "192.0.2.7", "localhost"],
        clients=["north", "south"],
        days=10,
        now=NOW,
    )
    assert until == NOW + datetime.timedelta(days=10)
    return tmp_path / "certs"


def test_files_are_the_owners_alone(folder):
    """Files have mode 0600 and folders 0700."""
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_servers_certificate_names_its_hosts_and_is_signed_by_the_ca(folder):
    """Loopback and the given hosts are in it, once each; the chain and the dates hold."""
    ca = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
    server = x509.load_pem_x509_certificate((folder / SERVER_FILE).read_bytes())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fl.example.org"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1", "192.0.2.7"]
    assert server.not_valid_after_utc == NOW + datetime.timedelta(days=10)
    assert server.not_valid_before_utc < NOW
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / SERVER_FILE, folder / SERVER_KEY_FILE)


def test_each_client_has_a_key_pair_that_flower_takes(folder):
    """The private key is OpenSSH's, P-384, and the public one is its own half."""
    for client in ("north", "south"):
        private = load_ssh_private_key(private_key_file(folder, client).read_bytes(), None)
        public = load_ssh_public_key(public_key_file(folder, client).read_bytes())
        assert private.curve.name == "secp384r1"
        assert private.public_key() == public
        assert read_public_key(public_key_file(folder, client)).startswith(b"-----BEGIN PUBLIC KEY")


def test_nothing_is_overwritten(folder):
    """A folder that exists stays as it is."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DeploymentError, match="exists; choose another --output"):
        write_certificates(folder, hosts=[], clients=["north"], days=1, now=NOW)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "host", ["https://fl.example.org", "fl.example.org:443", "a b", "", "a..b"]
)
def test_what_is_no_host_is_refused(tmp_path, host):
    """A URL, a port or a blank is told in one line, and nothing is written."""
    with pytest.raises(DeploymentError, match="neither a host name nor an address"):
        write_certificates(tmp_path / "certs", hosts=[host], clients=[], days=1, now=NOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"no key", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== x"])
def test_a_public_key_of_another_kind_is_refused(tmp_path, text):
    """What is no key, or none of an elliptic curve that Flower takes, is named with the remedy."""
    (tmp_path / "north.pub").write_bytes(text)
    with pytest.raises(DeploymentError, match="ssh-keygen -t ecdsa -b 384"):
        read_public_key(tmp_path / "north.pub")


def test_the_command_says_what_it_made(tmp_path, capsys):
    """One line a file that matters, with hosts and the last day."""
    words = ["finetune", "certs", "--output", str(tmp_path / "c"), "--host", "fl.example.org"]
    assert motley.main([*words, "--client", "north"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["CA", "server", "client north"]
    assert "for localhost, 127.0.0.1, ::1, fl.example.org" in lines[1]
    assert motley.main([*words, "--client", "../north"]) == 2
    assert "'../north' is no client's name" in capsys.readouterr().err
