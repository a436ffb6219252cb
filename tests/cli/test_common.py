"""What commands share: tables, file names, and where compiled programs go."""

import io
import os

import jax
import pytest

import jaxcomp as jc
from jaxcomp.cli import common
from jaxcomp.coding import chunked, container

START = """
import jax, jaxcomp.cli.main, jaxcomp.codecs.files
from jaxcomp.cli import common
assert jax.config.jax_compilation_cache_dir is None, "an import set it"
common.start_jax()
print(jax.config.jax_compilation_cache_dir)
"""


def test_compiled_programs_go_to_the_users_cache(process, tmp_path):
    status, out, err = process(code=START)
    assert status == 0, err
    assert out == f"{tmp_path}/cache/jaxcomp/xla\n"


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(process, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    status, out, err = process(code=START)
    assert status == 0 and out == "None\n" and err == ""


def test_a_folder_somebody_chose_is_left_alone(process, tmp_path):
    chosen = f"import jax; jax.config.update('jax_compilation_cache_dir', {str(tmp_path)!r})\n"
    status, out, _ = process(code=chosen + START.replace("assert", "assert True or"))
    assert status == 0 and out == f"{tmp_path}\n"


@pytest.mark.parametrize("given", ["", "--xla_cpu_use_fusion_emitters=true"])
@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="XLA does not know the flag")
def test_programs_compile_fast_unless_somebody_chose(process, given):
    code = START + "import os; print(jax.jit(lambda x: x + 1)(1), os.environ['XLA_FLAGS'])"
    status, out, err = process(code=f"import os; os.environ['XLA_FLAGS'] = {given!r}\n{code}")
    assert status == 0, err
    assert out.endswith(f"2 {given or common.COMPILE_FAST}\n")


def test_what_runs_once_is_compiled_with_flags_that_xla_knows(process):
    assert common.flags_of_one("dct", 1) == common.COMPILE_FAST
    assert common.flags_of_one("learned", 1 << 23) == common.COMPILE_FAST
    flags = common.flags_of_one("learned", 1 << 20)
    code = "import os; os.environ['XLA_FLAGS'] = ''\n"
    code += f"from jaxcomp.cli import common; common.start_jax(flags={flags!r})\n"
    code += "import jax; print(jax.jit(lambda x: x + 1)(1), os.environ['XLA_FLAGS'])"
    status, out, err = process(code=code)
    assert status == 0, err
    known = common.COMPILE_ONCE.split()[jax.__version_info__ >= (0, 11) :]
    assert out == f"2 {' '.join(known)}\n"


def test_table_aligns_words_left_and_numbers_right():
    assert common.table(["name", "n"], [["a", "10"], ["longer", "5"]]).split("\n") == [
        "name     n",
        "a       10",
        "longer   5",
    ]


def test_any_file_name_can_be_printed():
    assert common.shown(os.fsdecode(b"caf\xe9.png")) == "caf\\udce9.png"


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (common.positive_int, {"7": 7}, ["0", "-1", "1.5", "x", ""]),
        (common.quality, {"1": 1, "100": 100}, ["0", "101", "50.5"]),
        (common.positive_float, {"0.25": 0.25}, ["0", "-1", "nan", "inf", "x"]),
    ],
)
def test_argument_types(check, good, bad):
    for text, value in good.items():
        assert check(text) == value
    for text in bad:
        with pytest.raises(common.argparse.ArgumentTypeError, match="got '"):
            check(text)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_tells_megabytes_a_second_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    with common.progress_bytes(100, "compressing") as advance:
        advance(100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with common.progress_bytes(2_000_000, "compressing") as advance:
        advance(1_000_000)
        advance(1_000_000)
    assert "compressing" in terminal.getvalue() and "2.0/2.0 MB" in terminal.getvalue()


def test_files_and_pipes_are_judged_by_their_first_bytes(monkeypatch, tmp_path):
    one = container.pack("toy", {}, {"a": b"abc"})
    writer = chunked.Writer(two := io.BytesIO(), "toy", {})
    writer.add(b"abc")
    writer.finish({})
    for version, data in ((1, one), (2, two.getvalue())):
        (tmp_path / "x.jxc").write_bytes(data)
        with common.judged(str(tmp_path / "x.jxc")) as found:
            assert found == (version, str(tmp_path / "x.jxc"))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        with common.judged("-") as (found, source):
            if version == 1:
                assert container.read(source).sections == {"a": b"abc"}
            else:
                assert chunked.Reader(source).chunk(0) == b"abc"
            assert found == version
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    with pytest.raises(jc.CorruptStream, match="standard input: not a .jxc file"):
        with common.judged("-"):
            raise AssertionError
