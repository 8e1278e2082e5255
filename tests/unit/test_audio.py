"""Recordings: what is read of good ones, and the one line about each that is not."""

import struct
import wave

import numpy as np
import pytest
import soundfile

from datamodules._audio import Head, read_head, read_samples
from datamodules._errors import DataError, DataFormatError

RATE = 8000


@pytest.fixture
def tone():
    return (0.5 * np.sin(np.arange(1000) / 10)).astype(np.float32)


def written(path, samples, rate=RATE, **settings):
    soundfile.write(path, samples, rate, **settings)
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "FLOAT", 0),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
    ],
)
def test_samples_come_back_as_they_were(tmp_path, tone, name, subtype, step):
    path = written(tmp_path / name, tone, subtype=subtype)
    samples = read_samples(path, name, RATE)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone, atol=step, rtol=0)
    assert read_head(path, name) == Head(RATE, 1000)
    assert read_head(path, name).seconds == 0.125


def test_a_wav_of_the_standard_library_is_read(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(struct.pack("<4h", 0, 16384, -32768, 32767))
    samples = read_samples(tmp_path / "a.wav", "a.wav", RATE)
    assert samples.tolist() == [0, 0.5, -1, 32767 / 32768]


def test_channels_are_averaged(tmp_path, tone):
    path = written(tmp_path / "a.wav", np.stack([tone, 0 * tone], axis=1), subtype="FLOAT")
    assert np.array_equal(read_samples(path, "a.wav", RATE), tone / 2)


def test_another_rate_is_refused_with_the_mend(tmp_path, tone):
    path = written(tmp_path / "a.wav", tone, rate=44100)
    with pytest.raises(DataFormatError, match=r"row 7 has 44100 .* 8000 are wanted .* -r 8000"):
        read_samples(path, "row 7", RATE)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_recording_of_no_length_is_refused(tmp_path, name):
    path = written(tmp_path / name, np.zeros(0, np.float32))
    with pytest.raises(DataFormatError, match=r"row 7 (holds no sound|cannot be read)"):
        read_samples(path, "row 7", RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, tone, bad):
    tone[12] = bad
    path = written(tmp_path / "a.wav", tone, subtype="FLOAT")
    with pytest.raises(DataFormatError, match=r"row 7: sample 12 is (nan|inf)"):
        read_samples(path, "row 7", RATE)


@pytest.mark.parametrize("kept", [0, 3, 20, 40, 45, 500, 2042])
def test_a_torn_wav_is_refused_wherever_it_ends(tmp_path, tone, kept):
    path = written(tmp_path / "a.wav", tone)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataFormatError, match=r"^row 7 (is torn|cannot be read|holds no sound)"):
        read_samples(path, "row 7", RATE)


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.95])
def test_a_torn_flac_is_refused_wherever_it_ends(tmp_path, part):
    noise = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    path = written(tmp_path / "a.flac", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataFormatError, match=r"^row 7 (is torn|is damaged|cannot be read)"):
        read_samples(path, "row 7", RATE)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_whose_writer_could_not_say_its_size_is_read(tmp_path, tone, size):
    path = written(tmp_path / "a.wav", tone)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    if size:
        assert len(read_samples(path, "a.wav", RATE)) == len(tone)
    else:
        with pytest.raises(DataFormatError, match="holds no sound"):
            read_samples(path, "a.wav", RATE)


def test_chunks_before_the_samples_are_passed_over(tmp_path, tone):
    path = written(tmp_path / "a.wav", tone)
    content = path.read_bytes()
    place = content.index(b"data")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(content[:place] + odd + content[place:])
    assert len(read_samples(path, "a.wav", RATE)) == len(tone)
    path.write_bytes((content[:place] + odd + content[place:])[:-10])
    with pytest.raises(DataFormatError, match="10 bytes of its samples are missing"):
        read_samples(path, "a.wav", RATE)


def test_what_is_no_recording_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("not a sound at all\n" * 10)
    with pytest.raises(DataFormatError, match=r"row 7 cannot be read as WAV or FLAC: \w+"):
        read_samples(tmp_path / "a.wav", "row 7", RATE)
    with pytest.raises(DataFormatError, match="row 7 cannot be read"):
        read_head(tmp_path / "a.wav", "row 7")


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read row 7: No such file"):
        read_samples(tmp_path / "b.wav", "row 7", RATE)
