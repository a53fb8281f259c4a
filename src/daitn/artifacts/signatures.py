"""Signatures: who answers for the executable part of a package, and who reports what (Ed25519 over BLAKE3).

What is signed is the digest of a domain word and the message, so a signature for a report is never one for a package.
A package's signature covers its kind and the digests of all parts, not the tensors: it travels unchanged while weights
change from visit to visit, and a data owner's policy can name the signer. Weights are named by the artifact's id.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daitn.artifacts.manifest import Manifest
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError

KEY_FILE_BYTES: Final = 4096
"""An Ed25519 key in PEM has 119 bytes; anything far larger is another file."""

_PARTS_DOMAIN: Final = "daitn 1 package parts"
_REPORT_DOMAIN: Final = "daitn 1 report"


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key kept at `path` (PEM, readable by its owner only); made there if nothing is.

    Of two processes that make it at once, both return the one that was first. PolicyError if others may read the file,
    InputError if it is not an Ed25519 key, UnavailableError if it cannot be written.
    """
    if not path.exists():
        _create_key(path)
    return load_key(path)


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key kept at `path`; errors as in `load_or_create_key`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise PolicyError(f"key file {path} has mode {mode & 0o777:o}", todo=f"run: chmod 600 {path}")
            pem = file.read(KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UnavailableError(f"key file {path} cannot be read: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(pem[:KEY_FILE_BYTES], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 key in PEM", todo="give another file, or none to have one made")
    return key


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The public key as 64 hex digits: how signers are named in manifests and policies."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


def public_key(signer: str) -> Ed25519PublicKey:
    """The public key that `signer` (64 hex digits) names; PeerError if it names none."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
    except ValueError:
        raise PeerError(f"{signer[:80]!r} is not an Ed25519 public key of 64 hex digits") from None


def sign_parts(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """The manifest with signer and signature over its kind and parts."""
    signature = key.sign(parts_digest(manifest)).hex()
    return msgspec.structs.replace(manifest, signer=public_hex(key), signature=signature)


def verify_parts(manifest: Manifest) -> None:
    """Whether `signer` signed kind and parts: PolicyError if nobody did, PeerError if the signature is false."""
    if not manifest.signer:
        raise PolicyError(f"package {manifest.name!r} is not signed", todo="its owner must sign it before it is sent")
    _verify(manifest.signature, manifest.signer, parts_digest(manifest), f"signature of package {manifest.name[:80]!r}")


def parts_digest(manifest: Manifest) -> bytes:
    """32 bytes that stand for kind and parts, whatever the order of the parts."""
    parts = sorted((part.name, part.size, [ref.id for ref in part.chunks]) for part in manifest.parts)
    return _domain_digest(_PARTS_DOMAIN, msgspec.msgpack.encode((manifest.kind, parts)))


def sign_report(report: bytes, key: Ed25519PrivateKey) -> str:
    """Signature (128 hex digits) of a report, such as what a visit did."""
    return key.sign(_domain_digest(_REPORT_DOMAIN, report)).hex()


def verify_report(report: bytes, signature: str, signer: str) -> None:
    """PeerError unless `signer` (64 hex digits) signed exactly these bytes as a report."""
    _verify(signature, signer, _domain_digest(_REPORT_DOMAIN, report), "signature of a report")


def sign_in_domain(domain: str, message: bytes, key: Ed25519PrivateKey) -> bytes:
    """Signature (64 bytes) of `message` that holds for the purpose `domain` only."""
    return key.sign(_domain_digest(domain, message))


def verify_in_domain(domain: str, message: bytes, signature: bytes, key: Ed25519PublicKey) -> bool:
    """Whether `key` signed `message` for the purpose `domain`."""
    try:
        key.verify(signature, _domain_digest(domain, message))
    except InvalidSignature:
        return False
    return True


def _domain_digest(domain: str, message: bytes) -> bytes:
    """BLAKE3 in key-derivation mode, whose context separates domains by construction."""
    return blake3(message, derive_key_context=domain).digest()


def _verify(signature: str, signer: str, digest: bytes, what: str) -> None:
    key = public_key(signer)
    try:
        key.verify(bytes.fromhex(signature), digest)
    except (ValueError, InvalidSignature):
        raise PeerError(
            f"{what} by {signer[:16]}… is false", todo="do not use it; ask its sender for the original"
        ) from None


def _create_key(path: Path) -> None:
    """Write a new key beside `path` and link it there, so that a reader never sees half a key nor two keys."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first: its key is the one
        finally:
            draft.unlink()
    except OSError as error:
        raise UnavailableError(f"key file {path} cannot be made: {error.strerror}") from None
