"""Event bodies as the journal keeps them: compressed against what most of them look like. Flash wears by the byte, and much of a record is structure.

Rule 1: the first byte says how: below 0x80 it is the number of a dictionary. Behind 1 there is raw deflate (RFC 1951), behind 2 a frame of Zstandard
(RFC 8878) without its magic number; a CBOR array begins above.
Rule 2: a dictionary's bytes never change; a better one gets the next number. What would not shrink stays as it is.
Rule 3: new bodies are packed by the second: the first took a reading as long as a third of its signature's verification (ADR 44).
"""

import base64
import threading
import zlib

import zstandard

_DEFLATED, _ZSTANDARD = 1, 2
#: Of 1: the body of an intent that was granted and of a reading, with everything that differs from one to the next taken out.
_FIRST = bytes.fromhex(
    "981f6c6465766963652d310101500000000058ad8443a10126a1044800000000000000005859a9010002686761746577617931036c6465766963652d"
    "3104010501061b00065bfeda2958690783627231011a0094c050085820000000000c01584000000000f650000000006a6163636f756e742d31582000"
    "000000582000000000627231016257681a0094c0501b00065bfeda295869657461726966663101634555521902d081826c712d6163636f756e742d31"
    "1a001d4c001a0094d1801b00065bfeda25e00001f41a0094c050801a0094c0501a0094c050f6f680976c6465766963652d3103500000000058c68443"
    "a10126a1044800000000000000005872aa010102686761746577617931036c6465766963652d3104010503061b00065bfee14ec3f20783627231011a"
    "008e6757085820000000000950000000000a82657461726966663101584000000000f650000000001a008e67571b00065bfee14ec3f281846c712d61"
    "63636f756e742d311a00030d4019b3b01923f081826c712d6163636f756e742d311a0014463c1a008e78a4f41b00065bfee14cee0001190389190451"
    "1a008e669f1a000857be1a0001ab26f6f60080"
)
#: Of 2: the codes of literals and lengths in 7,900 such bodies of five small sites (ZDICT), names and numbers that stand in many of them, and the first.
_SECOND = zstandard.ZstdCompressionDict(
    base64.b85decode(
        b"H>5D^trMU+E)Yn24k8EZ2FbfH2_b>G<wySVwrT<ZK?5~>!sgo;=|2GXfrSfl8HoOa4sfS~0sssch7B$9!T|sTpoNYe3XdHf1x6Dw2-reM5o8Pi000060000000000bc*MK0|Q}Tm>!lv"
        b"0000uC<y=%09XS600031000C4000O8006ET22L6P5`}ac019%>8UO+o_V)GwfR|}xWp-&}Wi2u?5K!>a8vq7d|49Qm00HzG09Rz9fEoZ-WTF}XS7f60_JA7z23!Arw1FF!Xl-S5WpXVs"
        b"G?!^*c5`JdFfcJP7#dK;eQV}qt=h>B_(x9GmP=(=(S$>x0VbgYNH7O;FF<ZWY*>AAX=Y{tV?|X`83NFOf^2auVPj)&b#8PmF*q6k9ZUck0Ez1F8vq7d{@Nwr00HzG09d|+L!kjCp#(@a"
        b"g>bKbe~D>WYN`PN0%T`*EjI&aV{k1nFf%m-0R<Q(1{(kdTmM>Ez=T7g0VbgYNEhkNusf<|GFWV?0RaMLXDu)=Ff#*YbZ=~IEj9!J1sEm<8vq7d|2#q@8X4E0Xz9U&B-g2*7${!OWZ$C+"
        b"Q1+Sx1$9|-c^tk49MEf~t_p%=bZ=~I0a!p-#Dqhk0VbgYNP8#qk_AQ8Sy*tY0RaMPb7^#CEip1JXLkc<ZDn+2axFIm0R<Qs23W&{L!kjCp#(_gY_R0Av-H(iZ>j+S0%vDobY*v8c>`!<"
        b"Wp-&}Wi2rT0R<Q%1{(k{Ffuh700Rv`8L_+>BaDH9X>l!KFfcGMGBp|i6f#g603;|n^cw&MTmNDU>Hq;51u!r$Fg6+h0}VhKww@UzhJk`<aV=pmFfcGMHW~mFSo|6QU0lKR8vq7d{}WzN"
        b"009^<Ff%k700Rv`8L!A0BPfA_X>l!KFfcGMGc+0i6m#$z0A2gD^cw&MTmM&4RR94Q1v44|0}VhKvbGr`zJY>laV=wYb98TQWpXVu8UPeWXc_<#eBSgM00vwB;Y{uT0T`)tEi)Pb0}VhK"
        b"x0o3uxPgLeaV=qEV{dhCbS*O)02C+08UO-uh4dQ$23!8~E|CBM7_t^Hmxw5YDERqAMPhiUK(LJQ=?PHeox#N1JKWl;f`Vg7*$b`;f@Wc3Eo5PN0a!o}=gf*!Z4KX3P(-7&(!lXBYHG6y"
        b"Pz2#>9FEl48T)&`1xs*mF$#iabYXI7W@Z6cK&RTv?j4l)M4RBHve~-d2~Z`bf%7?|fsDF6y17IB-rfp=Xk~6?a%XuhGXYpYL%a1`{`SQrk%5G4aV=qEV{dhCbS*M78UO<gKpC~986;GJ"
        b"f^2auVPj)&b#8PmGBX+g6!d|FX>l!KFfcGMF*X_i0}VhKv#=Q>@PUG9aV=pmFfcGNHW~mFOc)vf50;hm8vq7nc5`JdFfcPQ1OWvYAO;%%23!A03GUMegKJ}NZf<2`bZ>GkF##F?c`}^{"
        b"SRfA*)>yrSL!kjCp#(^mWB@G9SKmKaX{rGM0%T`*EjI&aV{k1nFflg-0R;&L8vq7d{`SP@JyBR}ssRB4W@jxhFfcO%XLN6DY%Mc21OWvI1{(kdTmJJh{NV?KWNcw>WdRxhE(us~ssRB4"
        b"XJ=t_Wp`nD18HPsc4=c}Ei*C%0R<5T8vq7d{}XFRga?CSaxnoK0AS96gl%yxV|8<MZ*66AEip1000Rv`8MLYyBqD)=ZE-DQb#ruYZDn#TF)|te6j~@60IC520%~(<bY(3uGA)=NY-DA2"
        b"X=7zAF#!Qk00000SgnLZp#dhL1V{h?00000003B7sQ~~2XlG$`Wp`nDF#~L5Wp-&}Wi2rT0R;gD8vq7d{@N*6X$OO1axnoK0F=N`2v{Hh0000C0a!o)0002?Pyhe`0BT`lV{dhCbS*Jh"
        b"AOHXW09YUZ0001Daxnp7S7;gll)z9M00vwB+9_CRWprV3X=Y|I0b@l~QW*l!fr4ytEn#D0Z*^{TEioDZ9ZUck0F=>y8vq7d{@Nwr00HzG0F=N`fEoalz)%_hl)zB-_JEgcWMy_~V`VKd"
        b"15f|}003CVghQbLCZPmK0000000000SaPZX0Rm`eVRU78VR<nFY-DA2X=7zAF$4hx0|pxa23!8&PQ&sCgJN<q0U7{~XIBVVAOHXW00~e40000Af@O4Ja%pB}F#%XW00000_D}!-000^Q"
        b"j%QaJ00vwB;ZDQyfrM;vEn#D0Z*^{TEioDZ0}VhKv#=Q>@PUGCaV=qEV{dhCbS*I&02D?%8UT)Xr1TpA23!8&Ozr>y83TzK1W_6Qj%J@400>vU8UO*SCieCKfB"
    )
)
#: A window holds a whole batch; tables for a body of some hundred bytes, as they are set up for each. The journal has a hash of its own; the size says how
#: much room a body takes, and is believed no further than ``MAX_BODY_SIZE``.
_PARAMETERS = zstandard.ZstdCompressionParameters(
    window_log=17,
    hash_log=10,
    chain_log=11,
    search_log=3,
    min_match=3,
    target_length=16,
    strategy=zstandard.STRATEGY_GREEDY,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)
_SECOND.precompute_compress(compression_params=_PARAMETERS)
#: Shorter ones are ticks and word of the uplink: there is nothing to gain.
_LEAST_SIZE = 64
#: The window that deflate was given.
_WINDOW_BITS = -12
#: Above what any body unpacks to: a batch of 2,000 records with its claims is a quarter of a megabyte.
MAX_BODY_SIZE = 64 * 1024 * 1024


class PackingError(ValueError):
    """Bytes that are no body of ours."""


class _Own(threading.local):
    """A thread's own: no two may use one at once, and to make them for each body takes longer than to use them."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(dict_data=_SECOND, compression_params=_PARAMETERS)
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_SECOND)


_own = _Own()


def pack(body: bytes) -> bytes:
    """``body`` as it is kept."""
    if len(body) < _LEAST_SIZE:
        return body
    packed = b"\x02" + _own.compressor.compress(body)[len(zstandard.FRAME_HEADER) :]
    return packed if len(packed) < len(body) else body


def unpack(kept: bytes) -> bytes:
    """The body that ``kept`` is; ``PackingError`` when it is none."""
    if not kept or kept[0] >= 0x80:
        return kept
    if kept[0] == _ZSTANDARD:
        return _decompressed(kept[1:])
    if kept[0] == _DEFLATED:
        return _inflated(kept[1:])
    raise PackingError(f"packed against dictionary {kept[0]}, which a newer program has")


def _decompressed(packed: bytes) -> bytes:
    frame = zstandard.FRAME_HEADER + packed
    try:
        if not 0 <= zstandard.frame_content_size(frame) <= MAX_BODY_SIZE:
            raise PackingError("larger than any body, or of no known size")
        return _own.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise PackingError("not a packed body") from err


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj(_WINDOW_BITS, _FIRST)
    try:
        body = inflate.decompress(packed, MAX_BODY_SIZE)
    except zlib.error as err:
        raise PackingError("not a packed body") from err
    if not inflate.eof or inflate.unused_data:
        raise PackingError("not the whole of a packed body")
    return body
