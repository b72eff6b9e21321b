"""Writes a single-file torrent (BEP 3)."""
import hashlib

PIECE_BYTES = 65_536


def write(file, destination, announce):
    """Describes `file` in the torrent `destination`; returns the info_hash in hexadecimal."""
    data = file.read_bytes()
    pieces = [hashlib.sha1(data[at : at + PIECE_BYTES]).digest() for at in range(0, len(data), PIECE_BYTES)]
    info = {
        "length": len(data),
        "name": file.name,
        "piece length": PIECE_BYTES,
        "pieces": b"".join(pieces),
        "private": 1,  # BEP 27: peers come from the tracker and from nowhere else
    }
    destination.write_bytes(bencode({"announce": announce, "info": info}))
    return hashlib.sha1(bencode(info)).hexdigest()


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        return bencode(value.encode())
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
