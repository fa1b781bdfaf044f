"""Keys of the site that came wrapped: into the token before they are obeyed, and again where the token lost them.

The label names the wrapped bytes too: a cloud that was set up anew sends another key under the same site and epoch, and the old
one, still in the token, must not be taken for it.
"""

import hashlib
from functools import lru_cache

from farthing.hsm import Token, WrappedKey

UNWRAP = "unwrap"
_DIGEST_SIZE = 4


@lru_cache(maxsize=64)  # asked for every intent; a site has a key or two
def site_key_label(site_id: str, epoch: int, wrapped_key: bytes) -> str:
    """What the key is called in this gateway's token."""
    return f"site-{site_id}-{epoch}-{hashlib.sha256(wrapped_key).digest()[:_DIGEST_SIZE].hex()}"


async def take_site_key(
    token: Token, *, site_id: str, epoch: int, ephemeral_public_key: bytes, wrapped_key: bytes
) -> None:
    """Unwrap the key into the token, unless it is there; raise ``HsmError``.

    A token's files are not fsynced, so a directive that was journaled and obeyed may have to be obeyed again after a power cut.
    """
    label = site_key_label(site_id, epoch, wrapped_key)
    if not token.has_key(label):
        await token.unwrap_hmac_key(
            UNWRAP, WrappedKey(ephemeral_public_key=ephemeral_public_key, wrapped=wrapped_key), label
        )
