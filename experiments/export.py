r"""Writes a trained model as a folder that needs JAX, but not this package, or as one file.

    python -m experiments.export --workdir=runs/quick --output=model
    printf '3\n\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n' > water.xyz
    python model/run.py water.xyz

The folder must be new or empty. It gets three files:
  model.stablehlo  the prediction with the run's best weights, for `jax.export.deserialize`. It runs
                   on CPU, GPU and TPU, for any number of structures, atoms and edges in a call,
                   and gives forces and virial too if one of the properties is an energy.
  model.json       describes inputs and outputs, with shapes and units, the choice of neighbours,
                   the conversion of the output to the unit, and the run.
  run.py           reads an xyz file (also an extended one with a cell), finds the neighbours, calls
                   the model and prints. It is meant as a start for scripts of your own.

To use the folder, `pip install jax flatbuffers` is enough. JAX reads exports of its versions of
the last half year: keep the run, to export it again later.

Without --workdir the weights are those that come with the package.

With --output=FILE.npz it writes the weights and their record instead, and FILE.npz.sha256. All
programs that use a trained model take such a file for --workdir, and so does the calculator.

--frames=8 averages over 8 rolls of the edges' frames instead of the run's own number: predictions
depend less on how a molecule is turned, at 8 times the cost.
"""

from __future__ import annotations

import json
import pathlib
import shutil

from experiments import program

PROGRAM = program.Program(str(__doc__), [program.OUTPUT], [program.WORKDIR, program.FRAMES])
if __name__ == "__main__":
    PROGRAM.begin()

from experiments import export_run
from hdgnn_jax.data.fitted import names_of
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_json
from hdgnn_jax.inference import weights
from hdgnn_jax.inference.export import export_model
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.types import Json


def main() -> None:
    """The program."""
    run(program.trained(), pathlib.Path(str(program.OUTPUT.value)), program.FRAMES.value)


def run(workdir: pathlib.Path, output: pathlib.Path, frames: int | None) -> None:
    """Writes the folder, or the file.

    Raises:
      InputError: where `output` exists and is not an empty folder.
      CheckpointError: where the run cannot be read.
    """
    if output.suffix == ".npz":
        if output.exists():
            raise InputError(f"--output={output} is there already: name a new file")
        program.refuse_unwritable("output", output)
        if frames is not None:
            raise InputError("--frames goes with a folder: a file has the weights alone")
        record = weights.pack(workdir, output)
        print(f"{output}: {names_of(record.fitted)}, {output.stat().st_size / 1e6:.1f} MB")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output} is there already: name a new folder, or an empty one")
    predictor = Predictor.load(workdir, frames)
    exported, description = export_model(predictor)
    description["run"] = record_of(workdir)
    output.mkdir(parents=True, exist_ok=True)
    (output / weights.PROGRAM).write_bytes(exported)
    write_json(output / "model.json", description)
    shutil.copyfile(export_run.__file__, output / "run.py")
    of = ", ".join(f"{k} [{one['unit']}]" for k, one in description["targets"].items())
    print(
        f"{output}: {of} for "
        f"{', '.join(description['platforms'])}, {len(exported) / 1e6:.1f} MB"
    )


def record_of(workdir: pathlib.Path) -> Json:
    """The run's config, split, domain and, if it has one, report."""
    record = weights.record_of(workdir)
    summary = workdir / "report/summary.json"
    return {
        "config": record.config,
        "split_digest": record.split_digest,
        "domain": record.domain.to_dict(),
        "report": json.loads(summary.read_text()) if summary.exists() else None,
    }


if __name__ == "__main__":
    PROGRAM.run(main)
