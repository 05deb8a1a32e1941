"""Small files that ask for gigabytes or minutes, made here so that none has to be kept."""

import io
import json
import struct
import zlib
from typing import Any, Callable, Dict

import numpy as np
from fuzz_seeds import Seed, aecg, kardia, mfer, mortara, muse, philips, scp, write_edf

MAKERS: Dict[str, Callable[[], Seed]] = {}


def sample(maker: Callable[[], Seed]) -> Callable[[], Seed]:
    MAKERS[maker.__name__] = maker
    return maker


def _wfdb(header: str, signal: bytes = b"\0" * 240, **others: str) -> Seed:
    files = {"m.hea": header.encode(), "m.dat": signal, "a.dat": signal}
    files.update({f"{name}.hea": text.encode() for name, text in others.items()})
    return Seed("m.hea", files)


def _signals(count: int, kind: str = "16", tail: str = " 200 16 0 0 0 0 I") -> str:
    return "".join(f"m.dat {kind}{tail}\n" for _ in range(count))


def one_file(name: str, content: bytes, **keywords: Any) -> Seed:
    return Seed(name, {name: content}, keywords)


SEGMENT = "a 2 500 60\na.dat 16 200 16 0 0 0 0 I\na.dat 16 200 16 0 0 0 0 II\n"


@sample
def wfdb_skew() -> Seed:
    return _wfdb("m 1 500 120\n" + _signals(1, "16:100000000"))


@sample
def wfdb_skew_212() -> Seed:
    return _wfdb("m 1 500 160\n" + _signals(1, "212:100000000"))


@sample
def wfdb_gap() -> Seed:
    header = "m/2 2 500/500(0)100000000\na 60\n~ 99999940\n"
    return _wfdb(header, a=SEGMENT)


@sample
def wfdb_gap_of_variable_layout() -> Seed:
    layout = "l 2 500 0\n~ 0 200 16 0 0 0 0 I\n~ 0 200 16 0 0 0 0 II\n"
    return _wfdb("m/3 2 500/500(0) 100000000\nl 0\na 60\n~ 99999940\n", a=SEGMENT, l=layout)


@sample
def wfdb_samples_beyond_the_segments() -> Seed:
    return _wfdb("m/1 2 500 900000000\na 60\n", a=SEGMENT)


@sample
def wfdb_one_segment_many_times() -> Seed:
    return _wfdb("m/400000 2 500 24000000\n" + "a 60\n" * 400_000, a=SEGMENT)


@sample
def wfdb_many_signals() -> Seed:
    return _wfdb("m 100000 500 1\n" + _signals(100_000))


@sample
def wfdb_signals_that_do_not_follow() -> Seed:
    return _wfdb("m 999999999 500 60\n" + _signals(2))


@sample
def wfdb_segment_of_itself() -> Seed:
    return _wfdb("m/1 2 500 60\nm 60\n")


@sample
def wfdb_samples_a_frame() -> Seed:
    return _wfdb("m 1 500 120\n" + _signals(1, "16x1000000000"))


@sample
def wfdb_samples_a_frame_of_unknown_length() -> Seed:
    return _wfdb("m 2 500\n" + _signals(1) + "a.dat 16x1000000000 200 16 0 0 0 0 II\n")


@sample
def wfdb_huge_baseline() -> Seed:
    return _wfdb("m 1 500 120\n" + _signals(1, tail=f" 200({'9' * 400}) 16 0 0 0 0 I"))


@sample
def wfdb_gain_too_small() -> Seed:
    return _wfdb("m 1 500 120\n" + _signals(1, tail=" 1e-320 16 0 0 0 0 I"), b"\1" * 240)


@sample
def wfdb_thousands_of_digits() -> Seed:
    return _wfdb(f"m 1 500 {'9' * 5000}\n" + _signals(1))


@sample
def wfdb_remark_of_control_characters() -> Seed:
    return _wfdb("m 1 500 120\n" + _signals(1) + "#" + "\x1f" * 100_000 + "\n")


@sample
def wfdb_line_of_letters() -> Seed:
    return _wfdb("m 2 500 60\n" + "a" * 20_000 + " " * 20_000 + "!\n" + "1" * 20_000 + "!\n")


@sample
def mat_that_expands() -> Seed:
    values = zlib.compress(_matrix((12, 10_000_000), b"\0" * 120_000_000), 9)
    return one_file("m.mat", _mat_header() + struct.pack("<II", 15, len(values)) + values, sample_rate=500, unit="uV")


@sample
def mat_with_wrong_dimensions() -> Seed:
    return one_file("m.mat", _mat_header() + _matrix((12, 400_000_000), b"\0" * 900_000), sample_rate=500, unit="uV")


@sample
def mat_of_version_4_with_wrong_dimensions() -> Seed:
    content = struct.pack("<5i4s", 50, 12, 400_000_000, 0, 4, b"val\0") + b"\0" * 900_000
    return one_file("m.mat", content, sample_rate=500, unit="uV")


@sample
def mat_of_many_variables() -> Seed:
    variables = (struct.pack("<5i8s1s", 50, 1, 1, 0, 8, b"v%06d\0" % number, b"\1") for number in range(20_000))
    return one_file("m.mat", b"".join(variables), sample_rate=500)


def _mat_header() -> bytes:
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM"


def _matrix(shape: Any, values: bytes) -> bytes:
    """A matrix of int8, its name `val`."""
    body = struct.pack("<IIII", 6, 8, 8, 0) + struct.pack("<IIii", 5, 8, *shape) + struct.pack("<HH4s", 1, 3, b"val\0")
    body += struct.pack("<II", 1, len(values)) + values
    return struct.pack("<II", 14, len(body)) + body


def _hdf5(write: Callable[[Any], None]) -> Seed:
    import h5py

    saved = io.BytesIO()
    with h5py.File(saved, "w") as file:
        write(file)
    return one_file("m.mat", saved.getvalue(), sample_rate=500, unit="uV")


@sample
def hdf5_that_expands() -> Seed:
    def write(file: Any) -> None:
        data = file.create_dataset("val", (3_000_000, 12), "i1", chunks=(3_000_000, 12), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(b"\0" * 36_000_000))

    return _hdf5(write)


@sample
def hdf5_with_a_chunk_larger_than_it_says() -> Seed:
    def write(file: Any) -> None:
        data = file.create_dataset("val", (5000, 12), "i2", chunks=(5000, 12), compression="gzip")
        expander = zlib.compressobj(9)
        content = b"".join([*(expander.compress(b"\0" * 10_000_000) for _ in range(35)), expander.flush()])
        data.id.write_direct_chunk((0, 0), content)

    return _hdf5(write)


@sample
def hdf5_with_a_chunk_that_is_not_there() -> Seed:
    content = zlib.compress(b"\0\1" * 720)

    def write(file: Any) -> None:
        data = file.create_dataset("val", (60, 12), "i2", chunks=(60, 12), compression="gzip")
        data.id.write_direct_chunk((0, 0), content)

    seed = _hdf5(write)
    size, claimed = (struct.pack("<II", number, 0) for number in (len(content), 2**31 + 2**20))
    assert seed.files[seed.main].count(size) == 1
    seed.files[seed.main] = seed.files[seed.main].replace(size, claimed)
    return seed


@sample
def hdf5_of_fill_values() -> Seed:
    return _hdf5(lambda file: file.create_dataset("val", (400_000_000, 12), "i2", chunks=(1000, 12), fillvalue=7))


@sample
def hdf5_of_many_datasets() -> Seed:
    def write(file: Any) -> None:
        first = file.create_dataset("val", (60, 12), "i2")
        for number in range(1_500):
            file[f"v{number}"] = first

    return _hdf5(write)


@sample
def hdf5_links() -> Seed:
    def write(file: Any) -> None:
        import h5py

        file["val"] = h5py.SoftLink("/val")
        file["group"] = file["/"]
        file["other"] = h5py.ExternalLink("m.mat", "val")

    return _hdf5(write)


@sample
def npy_of_a_huge_shape() -> Seed:
    claims = b"\x93NUMPY\x01\x00v\x00{'descr': '|i1', 'fortran_order': False, 'shape': (12, 100000000000), }"
    return one_file("m.npy", claims.ljust(127) + b"\n" + b"\0" * 900, sample_rate=500, unit="uV")


@sample
def npy_header_of_brackets() -> Seed:
    text = b"(" * 9000 + b"\n"
    return one_file("m.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text, sample_rate=500)


@sample
def csv_of_many_columns() -> Seed:
    return one_file("m.csv", b"I," * 1_000_000 + b"II\n" + b"1," * 1_000_000 + b"2\n", sample_rate=500)


@sample
def csv_of_100000_columns() -> Seed:
    return one_file("m.csv", b",".join(b"x%d" % k for k in range(100_000)) + b"\n", sample_rate=500)


@sample
def csv_of_blanks() -> Seed:
    blanks = b" " * 400_000
    return one_file("m.csv", b"II,I(%bx,t%bx\n1,2,3\n,%bx,\n" % (blanks, blanks, blanks), sample_rate=500)


@sample
def csv_whose_derived_leads_are_infinite() -> Seed:
    return one_file("m.csv", b"I,II\n1e308,-1e308\n0.5,0.5\n", sample_rate=500)


@sample
def csv_whose_counts_would_be_infinite() -> Seed:
    return one_file("m.csv", b"I (V),II (nV)\n1e306,1\n0.5,0.5\n", sample_rate=500)


@sample
def scp_of_12_gb() -> Seed:
    return one_file("m.scp", scp([1, 2], end=800_000_000))


@sample
def scp_of_huffman_codes() -> Seed:
    return one_file("m.scp", scp([1, 2], end=800_000_000, huffman=True))


@sample
def mfer_of_many_channels() -> Seed:
    million = struct.pack(">I", 1_000_000)
    return one_file("m.mwf", mfer(b"\x05\x04" + million + b"\x1e\x84" + million + b"\0" * 1_000_000))


@sample
def mfer_of_nested_definitions() -> Seed:
    content = b"\0" * 3_000_000
    for _ in range(900):
        content = b"\x67\x84" + struct.pack(">I", len(content)) + content
    return one_file("m.mwf", mfer(content))


@sample
def mfer_of_a_long_channel_number() -> Seed:
    return one_file("m.mwf", mfer(b"\x3f" + b"\xff" * 2_000_000 + b"\0\0"))


@sample
def mfer_without_lengths() -> Seed:
    return one_file("m.mwf", mfer(b"\x67\x80" * 400 + b"\x16\1a" * 60_000))


@sample
def edf_of_huge_records() -> Seed:
    return one_file("m.edf", write_edf(["I", "II"], samples=99_999_999))


@sample
def edf_of_many_records() -> Seed:
    return one_file("m.edf", write_edf(["I", "II"], records=99_999_999))


@sample
def edf_of_many_signals() -> Seed:
    return one_file("m.edf", write_edf(["I", "II"], signals=9999))


@sample
def json_of_brackets() -> Seed:
    return one_file("m.json", kardia()[:-1] + b',"x":' + b"[" * 3_000_000)


@sample
def json_of_empty_lists() -> Seed:
    return one_file("m.json", kardia()[:-1] + b',"x":[' + b"[]," * 1_000_000 + b"1]}")


@sample
def json_of_thousands_of_digits() -> Seed:
    text = json.loads(kardia())
    text["data"]["raw"]["samples"]["leadI"][0] = 0
    return one_file("m.json", json.dumps(text).replace("[0,", "[" + "9" * 5000 + ",", 1).encode())


@sample
def muse_of_many_elements() -> Seed:
    return one_file("m.xml", muse("<a/>" * 1_000_000))


@sample
def muse_in_depth() -> Seed:
    return one_file("m.xml", muse("<a>" * 200_000 + "</a>" * 200_000))


@sample
def philips_of_many_elements() -> Seed:
    return one_file("m.xml", philips(b"\0" * 240).replace(b"<waveforms>", b"<a/>" * 1_000_000 + b"<waveforms>"))


@sample
def philips_that_expands() -> Seed:
    codes = [0, *range(256, 1022), *[1021] * 1_000_000]
    codes += [0] * (-len(codes) % 4)
    groups = np.array(codes, np.uint64).reshape(-1, 4)
    whole = groups @ np.array([1 << 30, 1 << 20, 1 << 10, 1], np.uint64)
    packed = whole.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 3:].tobytes()
    payload = struct.pack("<ihh", len(packed), 0, 0) + packed
    return one_file("m.xml", philips(payload, 'dataencoding="Base64" compression="XLI"'))


@sample
def mortara_of_attributes() -> Seed:
    return one_file("m.xml", mortara("<X " + " ".join(f'a{k}=""' for k in range(400_000)) + "/>"))


@sample
def aecg_with_attributes_for_each_element() -> Seed:
    declared = f'<!DOCTYPE AnnotatedECG [<!ATTLIST a x CDATA "{"y" * 7_000}">]>'
    return one_file("m.xml", aecg("<a/>" * 100_000).replace(b"<AnnotatedECG", declared.encode() + b"<AnnotatedECG", 1))


def changed_dicom(change: Callable[[Any], None]) -> Seed:
    import pydicom
    from fuzz_seeds import seeds_of

    data = pydicom.dcmread(io.BytesIO(next(iter(seeds_of("dicom"))).files["r.dcm"]))
    change(data)
    saved = io.BytesIO()
    data.save_as(saved)
    return one_file("m.dcm", saved.getvalue())


@sample
def dicom_of_many_samples() -> Seed:
    return changed_dicom(lambda data: setattr(data.WaveformSequence[0], "NumberOfWaveformSamples", 2**32 - 1))


@sample
def dicom_of_many_channels() -> Seed:
    def change(data: Any) -> None:
        group = data.WaveformSequence[0]
        group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, "SB"
        group.NumberOfWaveformSamples, group.WaveformData = 30, b"\0" * 65535 * 30
        group.NumberOfWaveformChannels = 65535

    return changed_dicom(change)


@sample
def dicom_of_many_groups() -> Seed:
    def change(data: Any) -> None:
        data.WaveformSequence = list(data.WaveformSequence) * 3_000

    return changed_dicom(change)


@sample
def dicom_in_depth() -> Seed:
    seed = changed_dicom(lambda data: None)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item) * 100_000
    return one_file("m.dcm", seed.files["m.dcm"] + nested)


@sample
def dicom_whose_element_is_longer_than_it() -> Seed:
    seed = changed_dicom(lambda data: None)
    return one_file("m.dcm", seed.files["m.dcm"] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 2**32 - 2))
