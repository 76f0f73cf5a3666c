"""The start of every command: quiet dependencies, settings of a CPU, one-line errors."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import logging
import os
import pathlib
import platform
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import flags
from ml_collections import config_flags

from hdgnn_jax import cpu
from hdgnn_jax.data.cache import cache_folder
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.types import Json

WORKDIR = flags.DEFINE_string("workdir", None, "DIR, folder of the run")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "FILE.py or FILE.py:VARIANT, a config; qm9:quick is one of this package"
)
JSON = flags.DEFINE_string("json", None, "FILE, where all numbers go")
PLOT = flags.DEFINE_string("plot", None, "FILE.png, where the plot goes")
OUTPUT = flags.DEFINE_string("output", None, "FILE or DIR, where the result goes")
FRAMES = flags.DEFINE_integer(
    "frames", None, "N, rolls of the edges' frames to average over, if not as in training",
    lower_bound=1,
)  # fmt: skip
PAGE = flags.DEFINE_string("page", None, "FILE.md, where the page goes, with its figures beside it")
SEEDS = flags.DEFINE_integer(
    "seeds", None, "N, runs that differ in the seed alone; not given: 3, for peer 1", lower_bound=1
)
SHARED = (WORKDIR, CONFIG, JSON, PLOT, OUTPUT, FRAMES, PAGE, SEEDS)
"""Flags of this module; each program says which of them it reads."""

ENDINGS = """Exit codes: 0, done; 1, an error, in one line on the standard error stream; 143,
training that SIGTERM or Ctrl-C ended, saved. --traceback shows where an error arose.
Environment: HDGNN_CACHE, folder of data sets, ~/.cache/hdgnn_jax if not set;
JAX_COMPILATION_CACHE_DIR, folder where compiled programs are kept for the next call: "programs" in
that of HDGNN_CACHE if not set, kept below about 1 GiB; if it is empty, none are kept."""
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
LARGEST = 2**30
"""Bytes of compiled programs that are kept, about."""

TRACEBACK = flags.DEFINE_bool("traceback", False, "show where in the program an error arose")
ERRORS = (HDGNNError, OSError)
"""Errors that a user can cause, such as a file that cannot be opened. Any other is a bug of ours
and keeps its traceback."""
T = TypeVar("T")


@dataclasses.dataclass
class Program:
    """A command: its --help and the flags that it reads.

    Its file declares flags and command before imports that take seconds, so that --help and
    mistakes on the command line are answered at once:

        PROGRAM = program.Program(str(__doc__), [program.WORKDIR])
        if __name__ == "__main__":
            PROGRAM.begin()

        import jax
        ...
        if __name__ == "__main__":
            PROGRAM.run(main)

    Attributes:
      document: what --help prints above the flags.
      needed: the flags that must be given.
      optional: other flags of this module that the program reads.
      words: whether the command line may have words beside the flags.
      resumes: whether the same command goes on from what an interrupted one has saved.
    """

    document: str
    needed: Sequence[flags.FlagHolder[Any]]
    optional: Sequence[flags.FlagHolder[Any]] = ()
    words: bool = False
    resumes: bool = False
    _given: Sequence[str] = dataclasses.field(default=(), init=False)

    def begin(self) -> None:
        """Reads the command line; --help and a mistake end the program, with exit code 0 and 1."""
        if {"-h", "--help"} & set(sys.argv[1:]):
            try:
                print(manual(self), flush=True)
            except BrokenPipeError:
                # Of `--help | head`. At its end Python would write the rest again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        keep_compiled()
        warnings.filterwarnings("ignore")
        try:
            sys.argv[1:] = map(_shipped, sys.argv[1:] if self.words else _joined(sys.argv[1:]))
            self._given = _parse(self)
        # config_flags raises anything where a field or a file is wrong.
        except Exception as error:
            fail(_reason(error))
        # Imports make over a hundred thousand objects that stay. To look for garbage among them,
        # again and again until the program has ended, takes a second in all.
        gc.disable()

    def run(self, main: Callable[..., None]) -> None:
        """Runs the program; a user's mistake ends it with one line and exit code 1.

        Args:
          main: takes the words of the command line.
        """
        gc.freeze()
        gc.enable()
        quiet()
        cpu.tune()
        try:
            main(*self._given)
        except ERRORS as error:
            if TRACEBACK.value:
                raise
            fail(error)
        except KeyboardInterrupt:
            again = "goes on from what was saved" if self.resumes else "starts anew"
            fail(f"stopped; the same command {again}")


def keep_compiled() -> None:
    """Keeps compiled programs for the next call. Call it before JAX is imported.

    They are kept in a folder of the user's cache, one for each kind of processor.
    JAX_COMPILATION_CACHE_DIR names another folder; if it is empty, or the folder cannot be written,
    nothing is kept.
    """
    if PROGRAMS in os.environ:
        return
    folder = cache_folder() / "programs" / _processor()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[PROGRAMS] = str(folder)
            _forget(folder.parent)


def _forget(folder: pathlib.Path) -> None:
    """Removes the files that were not read for longest, until the rest has at most `LARGEST` bytes.

    JAX's own limit fails on folders that were filled without it.
    """
    files = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    size = 0
    for found, path in sorted(files, key=lambda file: file[0].st_atime, reverse=True):
        size += found.st_size
        if size > LARGEST:
            path.unlink(missing_ok=True)


def manual(of: Program) -> str:
    """The page that --help prints: usage, what the program does, its flags, exit codes."""
    own = [flag.name for flag in flags.FLAGS.flags_by_module_dict().get(sys.argv[0], [])]
    first = [holder.name for holder in of.needed]
    others = [name for name in [holder.name for holder in of.optional] + own if name not in first]
    spec = sys.modules["__main__"].__spec__
    usage = [
        f"usage: python -m {spec.name.removesuffix('.__main__') if spec else 'PROGRAM'}",
        *(f"--{name}={_value(name)}" for name in first),
        *(f"[--{name}]" if flags.FLAGS[name].boolean else f"[--{name}={_value(name)}]"
          for name in others),
        *["[WORD ...]"] * of.words,
    ]  # fmt: skip
    lines = []
    for name in first + others:
        flag = flags.FLAGS[name]
        given = flag.default not in (None, False)
        default = " (default {})".format((flag.default_as_str or "").strip("'")) if given else ""
        lines.append(f"  --{name}\n      {flag.help}{default}")
    wrap = functools.partial(textwrap.fill, width=100, subsequent_indent="    ",
                             break_on_hyphens=False, break_long_words=False)  # fmt: skip
    return "\n\n".join(
        [wrap(" ".join(usage)), of.document.strip(), "Flags\n" + "\n".join(lines), ENDINGS]
    )


def _processor() -> str:
    """A name for the processor's instructions: programs compiled for others may not run on it."""
    about = pathlib.Path("/proc/cpuinfo")
    flags_of = re.search("^flags.*", about.read_text() if about.exists() else "", re.MULTILINE)
    instructions = flags_of[0] if flags_of else platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(instructions.encode()).hexdigest()[:8]}"


def _value(name: str) -> str:
    """The placeholder of a flag's value: the capitals that its help begins with."""
    word = (flags.FLAGS[name].help or "").split(",")[0].split(" ")[0].rstrip(":;")
    return word if word.isupper() or word.startswith(("FILE", "DIR")) else "VALUE"


def read_config() -> Json:
    """The config as nested dicts of JSON values.

    Raises:
      ValueError: where its file cannot be read.
    """
    try:
        config: Json = json.loads(CONFIG.value.to_json())
        return config
    except OSError as error:
        raise InputError(_reason(error)) from error


def workdir() -> pathlib.Path:
    """Folder of the run."""
    return pathlib.Path(str(WORKDIR.value))


def trained() -> pathlib.Path:
    """What --workdir names, a run's folder or a file of weights; else those of the package."""
    from hdgnn_jax.inference.weights import SHIPPED

    return pathlib.Path(WORKDIR.value or SHIPPED)


def refuse_unwritable(flag: str, file: str | os.PathLike[str] | None) -> None:
    """Refuses a file that cannot be written, before hours of work.

    Args:
      flag: name of the flag that names it.
      file: the file; None: none is wanted.

    Raises:
      InputError: where it is a folder, or its folder does not exist or takes no file.
    """
    if not file:
        return
    path = pathlib.Path(file)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--{flag}={file}: its folder does not exist")
    if path.is_dir():
        raise InputError(f"--{flag}={file} is a folder: name a file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"--{flag}={file}: its folder cannot be written")


def read_json(file: str | os.PathLike[str], kind: type[T]) -> T:
    """The content of a JSON file that holds a `dict` or a `list`.

    Raises:
      InputError: where it is damaged or holds something else.
      OSError: where it does not exist.
    """
    try:
        content = json.loads(pathlib.Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{file} must hold {'an object' if kind is dict else 'a list'}")
    return content


def fail(message: object) -> NoReturn:
    """Ends the program with one line on the standard error stream."""
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr, flush=True)
    # Other processes can wait for this one only where JAX has been imported.
    if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        from hdgnn_jax.training import distributed

        distributed.abort()
    sys.exit(1)


def quiet() -> None:
    """Lets only our own log reach the terminal, each warning in one line."""
    # Called after the flags are parsed, because absl's own flags set these levels.
    for name in (None, "absl", "jax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    ours = logging.getLogger("hdgnn_jax")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.WARNING)


def _joined(words: Sequence[str]) -> list[str]:
    """`--flag=value` for `--flag value`, of a command line that has no words beside the flags."""
    found: list[str] = []
    for word in words:
        flag = found[-1] if found else ""
        if flag.startswith("-") and "=" not in flag and not word.startswith("--"):
            found[-1] = f"{flag}={word}"
        else:
            found.append(word)
    return found


def _shipped(argument: str) -> str:
    """Puts the path of this package's file into `--config=qm9:quick`.

    Outside the repository it also does so for `--config=experiments/configs/qm9.py:quick`, as the
    README has it. `--space` is treated in the same way.

    Raises:
      InputError: where there is no such file.
    """
    flag, _, value = argument.partition("=")
    folder, ending = {"--config": ("configs", ".py"), "--space": ("spaces", ".json")}.get(
        flag, ("", "")
    )
    name, colon, variant = value.partition(":") if flag == "--config" else (value, "", "")
    stem = name.removeprefix(f"experiments/{folder}/").removesuffix(ending)
    ours = pathlib.Path(__file__).parent / folder / f"{stem}{ending}"
    named = name in (stem, f"experiments/{folder}/{stem}{ending}")
    if not folder or not name or pathlib.Path(name).is_file():
        return argument
    if not (stem and named and ours.is_file()):
        raise InputError(f"{argument}: there is no file {name}")
    return f"{flag}={ours}{colon}{variant}"


def _parse(of: Program) -> list[str]:
    # Of other flags the last one counts, so that a script can end with its caller's.
    given = collections.Counter(word.split("=")[0] for word in sys.argv[1:])
    for name in (WORKDIR.name, OUTPUT.name):
        if (number := given[f"--{name}"]) > 1:
            raise InputError(f"--{name} is given {number} times")
    rest = flags.FLAGS(sys.argv)[1:]
    if rest and not of.words:
        raise InputError(f"unexpected argument {rest[0]!r}")
    known = {holder.name for holder in (*of.needed, *of.optional)}
    for holder in SHARED:
        if holder.value and holder.name not in known:
            raise InputError(f"this command has no --{holder.name}")
    for holder in of.needed:
        if not flags.FLAGS[holder.name].value:
            raise InputError(f"--{holder.name} is missing: {flags.FLAGS[holder.name].help}")
    for holder in (JSON, PLOT):
        refuse_unwritable(holder.name, holder.value)
    if PLOT.value and pathlib.Path(PLOT.value).suffix != ".png":
        raise InputError(f"--plot={PLOT.value} must end in .png")
    if PAGE.value and pathlib.Path(PAGE.value).suffix != ".md":
        raise InputError(f"--page={PAGE.value} must end in .md")
    return rest


def _reason(error: Exception) -> str:
    """An error in one line; of a message with a traceback, the last line."""
    if isinstance(error, (AttributeError, KeyError)):
        # The first line quotes the field; a second proposes one that is spelt much the same.
        text = error.args[0]
        while isinstance(text, Exception):
            text = text.args[0]
        field, *hint = str(text).splitlines()
        return ". ".join(["the config has no field " + field.strip("'\""), *hint])
    text = str(error)
    if "Traceback" in text:
        return re.sub(r"^[\w.]*(Error|Exception): ", "", text.strip().splitlines()[-1])
    # A value may contain line breaks.
    return " ".join(text.split())
