"""Files that take a reader long, or that grow in memory; readers refuse the known ones early."""

import io
import zlib

import numpy as np
import scipy.io
from made_up import RATE

from fairseq_signals_ext.common.leads import LEADS


def _remarks():
    header = b"A 2 500 1000\nA.dat 16 1000/mV 16 0 0 0 0 I\nA.dat 16 1000/mV 16 0 0 0 0 II\n"
    return {"A.hea": header + b"#" + b"\x01" * 4000, "A.dat": bytes(4000)}, {}


def _blanks():
    return {"blanks.csv": b"I" + b" " * 40_000 + b"x,II\n1,2\n"}, {"sample_rate": "500"}


def _numbers():
    return {"A.hea": b"A 1 500 10\n" + b"A.dat " + b"1" * 20_000 + b"x\n", "A.dat": bytes(20)}, {}


def _mat_bomb(claimed=60_000_000):
    """A small array with far too much compressed data."""
    saved = io.BytesIO()
    scipy.io.savemat(saved, {"val": np.zeros((2, 100), "<i2")})
    head, element = saved.getvalue()[:128], saved.getvalue()[128:]
    packed = zlib.compress(element + bytes(claimed), 9)
    return {"bomb.mat": head + np.array([15, len(packed)], "<u4").tobytes() + packed}, {"sample_rate": "500"}


def _wide_xml(megabytes=5):
    return {"wide.xml": b"<RestingECG>" + b"<a/>" * (megabytes * 250_000) + b"</RestingECG>"}, {}


def _skew():
    header = f"A 1 {RATE} 1000\nA.dat 16:100000000 1000/mV 16 0 0 0 0 I\n"
    return {"A.hea": header.encode(), "A.dat": bytes(2000)}, {}


def _segments(number=200_000):
    lines = "".join(f"S{one} 1\n" for one in range(number))
    return {"A.hea": f"A/{number} 2 {RATE} {number}\n{lines}".encode()}, {}


def _gap():
    header = f"A/2 {len(LEADS)} 500/500(0) 100000000\nS 10\n~ 99999990\n".encode()
    signals = "".join(f"S.dat 16 1000/mV 16 0 0 0 0 {lead}\n" for lead in LEADS)
    return {"A.hea": header, "S.hea": f"S {len(LEADS)} 500 10\n{signals}".encode(), "S.dat": bytes(240)}, {}


HOSTILE = {
    "remarks": _remarks,
    "blanks": _blanks,
    "numbers": _numbers,
    "mat": _mat_bomb,
    "xml": _wide_xml,
    "skew": _skew,
    "segments": _segments,
    "gap": _gap,
}
