"""Mutants of good files."""

import gzip
import json
import random
import struct
from collections.abc import Iterator

import nibabel as nib
import numpy as np

_FIELDS = {"dim", "pixdim", "srow_x", "srow_y", "srow_z", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "xyzt_units"}
_FIELDS |= {"qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "glmin", "sizeof_hdr"}
_EDGES = [0, 1, 2, 127, 128, 254, 255]


def mutate(good: bytes, file: str, rng: random.Random) -> bytes:
    """A few changes of a good file: bytes flipped or set, numbers put over others, parts cut, doubled or moved, values swapped."""
    if file.endswith(".gz"):
        if rng.random() < 0.6:  # what is packed, not the packing
            return gzip.compress(mutate(gzip.decompress(good), file.removesuffix(".gz"), rng), 1, mtime=0)
        if rng.random() < 0.3:
            return _mutate_packing(good, rng)
    if file.endswith(".nii") and rng.random() < 0.5:
        return _mutate_header(good, rng)
    if file.endswith(".json") and rng.random() < 0.6:
        return mutate_json(good, rng)
    return mutate_bytes(good, rng)


def _mutate_packing(good: bytes, rng: random.Random) -> bytes:
    """Changes of the ten bytes before the packed data, and of what follows it."""
    raw = bytearray(good)
    match rng.randrange(4):
        case 0:
            raw[rng.randrange(10)] = rng.randrange(256)
        case 1:
            raw[3:10] = bytes([rng.choice([1, 2, 4, 8, 16, 31, 32, 64, 128]), *raw[4:10]])
        case 2:
            to_the_next_piece = bytes(2**16 - len(good) % 2**16)
            raw += rng.choice([b"\0", bytes(700), b"q", b"\x1f", b"\x1f\x8b", good, good[:30], bytes(9) + good, to_the_next_piece + b"q"])
        case 3:
            raw[-rng.randrange(1, 9)] ^= 1 << rng.randrange(8)
    return bytes(raw)


_NUMBERS = [0, 1, -1, 2, 0.5, 0.99999, 1e-4, 1e-8, 1e-20, 1e-30, 1e-42, 1e3, 1e9, 1e20, 1e38]
_NUMBERS += [float("nan"), float("inf"), float("-inf"), 352, 352.5]
_WHOLE_NUMBERS = [*range(-2, 9), 256, 512, 768, 1024, 1280, 1536, 27307, 32767, 2**31]


def _mutate_header(good: bytes, rng: random.Random) -> bytes:
    """Other numbers in a few fields of a NIfTI header."""
    kind = nib.Nifti2Header if good[4:7] == b"n+2" else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    endianness = "<" if int.from_bytes(good[:4], "little") == size else ">"
    fields = np.frombuffer(good[:size], kind(endianness=endianness).structarr.dtype).reshape(1).copy()
    for _ in range(rng.choice([1, 1, 2, 3])):
        values = fields[rng.choice(sorted(_FIELDS & set(fields.dtype.names)))].reshape(-1)  # a view
        place = rng.randrange(values.size)
        if values.dtype.kind == "f":
            number = float(values[place])
            with np.errstate(over="ignore"):
                values[place] = rng.choice([*_NUMBERS, -number, number * 1.005, number * (1 + 1e-6), rng.uniform(-1, 1), rng.gauss(0, 1e3)])
        else:
            info = np.iinfo(values.dtype)
            values[place] = max(info.min, min(info.max, rng.choice([*_WHOLE_NUMBERS, info.min, info.max])))
    return fields.tobytes() + good[size:]


def mutate_bytes(good: bytes, rng: random.Random) -> bytes:
    raw = bytearray(good)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        # half of all changes lie in the header
        place = rng.randrange(min(len(raw), 352) if rng.random() < 0.5 else len(raw)) if raw else 0
        match rng.randrange(8):
            case 0:
                raw[place : place + 1] = bytes([rng.choice(_EDGES)])
            case 1:
                raw[place : place + 1] = bytes([rng.randrange(256)])
            case 2 if place < len(raw):
                raw[place] ^= 1 << rng.randrange(8)
            case 3:
                form = rng.choice(["<h", ">h", "<i", "<q"])
                size = struct.calcsize(form) * 8
                raw[place : place + size // 8] = struct.pack(form, rng.choice([0, 1, -1, 2 ** (size - 1) - 1, -(2 ** (size - 1))]))
            case 4:
                number = rng.choice([0.0, -1.0, 1e9, 1e38, float("nan"), float("inf"), 1e-38])
                raw[place : place + 4] = struct.pack(rng.choice(["<f", ">f"]), number)
            case 5:
                del raw[place:]
            case 6:
                del raw[place : place + rng.randrange(1, 64)]
            case 7:
                raw[place:place] = raw[place : place + rng.randrange(1, 64)] * rng.choice([1, 2, 100])
    return bytes(raw)


def mutate_json(good: bytes, rng: random.Random) -> bytes:
    content = json.loads(good)
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = list(_places(content))
        holder, key = rng.choice(places)
        other, other_key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                holder[key] = _strange(rng)
            case 1:
                holder[key] = json.loads(json.dumps(other[other_key]))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[rng.choice(["", "surprise", "\ud800", "0", "-1", "1e9", "9" * 5000])] = _strange(rng)
            case 4 if isinstance(holder, list):
                holder += holder[:50]
    return json.dumps(content).encode(errors="surrogatepass")


def _strange(rng: random.Random) -> object:
    deep: object = 0
    for _ in range(rng.choice([10, 60, 400])):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    numbers = [0, -1, 2**31, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf")]
    texts = ["", "\x00", "../../x", "/etc/passwd", "a" * 10_000, "\ud800"]
    return rng.choice([None, True, *numbers, *texts, [], {}, [[]], [None], {"0": None}, deep])


def _places(content: object) -> Iterator[tuple]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)
