"""Throughput of the same training on one rank and on two ranks that share each step, one thread per rank.

    python benchmarks/ranks.py PREPARED [--set KEY=VALUE ...]

Reports cases per second of training, without validation. The first epoch warms up and is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], help="further settings of the training")
    options = parser.parse_args()
    num_cases = len(json.loads((options.prepared / "prepared.json").read_text())["cases"])
    rates = {}
    for num_ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "rarecli", "train", str(options.prepared), "-o", str(run), "--fold", "all"]
            command += ["--epochs", str(options.epochs), "--nproc", str(num_ranks), "--device", "cpu", "--set", "batch_size=4"]
            command += [part for item in options.set for part in ("--set", item)]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        rates[num_ranks] = num_cases / statistics.median(line["seconds"] for line in lines[1:])
    print(json.dumps({"cases_per_s": rates, "ratio": rates[2] / rates[1]}, indent=2))


if __name__ == "__main__":
    main()
