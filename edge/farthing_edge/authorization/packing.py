"""Event bodies as the journal keeps them: deflated against what most of them look like. Flash wears by the byte, and much of a record is structure.

Rule 1: the first byte says how: below 0x80 it is the number of a dictionary, and raw deflate (RFC 1951) follows; a CBOR array begins above.
Rule 2: a dictionary's bytes never change; a better one gets the next number. What would not shrink stays as it is.
"""

import zlib

#: The body of an intent that was granted and of a reading, with everything that differs from one to the next taken out.
_DICTIONARIES = {
    1: bytes.fromhex(
        "981f6c6465766963652d310101500000000058ad8443a10126a1044800000000000000005859a9010002686761746577617931036c6465766963652d"
        "3104010501061b00065bfeda2958690783627231011a0094c050085820000000000c01584000000000f650000000006a6163636f756e742d31582000"
        "000000582000000000627231016257681a0094c0501b00065bfeda295869657461726966663101634555521902d081826c712d6163636f756e742d31"
        "1a001d4c001a0094d1801b00065bfeda25e00001f41a0094c050801a0094c0501a0094c050f6f680976c6465766963652d3103500000000058c68443"
        "a10126a1044800000000000000005872aa010102686761746577617931036c6465766963652d3104010503061b00065bfee14ec3f20783627231011a"
        "008e6757085820000000000950000000000a82657461726966663101584000000000f650000000001a008e67571b00065bfee14ec3f281846c712d61"
        "63636f756e742d311a00030d4019b3b01923f081826c712d6163636f756e742d311a0014463c1a008e78a4f41b00065bfee14cee0001190389190451"
        "1a008e669f1a000857be1a0001ab26f6f60080"
    )
}
_NEWEST = 1
#: Shorter ones are ticks and word of the uplink: there is nothing to gain.
_LEAST_SIZE = 64
#: A window of 4 KiB holds dictionary and body, and takes a tenth of the time of the largest to set up.
_WINDOW_BITS = -12
_LEVEL = 6
#: A hash of 4,096 places is more than a body has bytes; the largest one takes as long to set up as all the rest.
_MEMORY_LEVEL = 5
#: Above what any body unpacks to: a batch of 2,000 records with its claims is a quarter of a megabyte.
MAX_BODY_SIZE = 64 * 1024 * 1024


class PackingError(ValueError):
    """Bytes that are no body of ours."""


def pack(body: bytes) -> bytes:
    """``body`` as it is kept."""
    if len(body) < _LEAST_SIZE:
        return body
    deflate = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, _DICTIONARIES[_NEWEST]
    )
    packed = bytes((_NEWEST,)) + deflate.compress(body) + deflate.flush()
    return packed if len(packed) < len(body) else body


def unpack(kept: bytes) -> bytes:
    """The body that ``kept`` is; ``PackingError`` when it is none."""
    if not kept or kept[0] >= 0x80:
        return kept
    dictionary = _DICTIONARIES.get(kept[0])
    if dictionary is None:
        raise PackingError(f"packed against dictionary {kept[0]}, which a newer program has")
    inflate = zlib.decompressobj(_WINDOW_BITS, dictionary)
    try:
        body = inflate.decompress(kept[1:], MAX_BODY_SIZE)
    except zlib.error as err:
        raise PackingError("not a packed body") from err
    if not inflate.eof or inflate.unused_data:
        raise PackingError("not the whole of a packed body")
    return body
