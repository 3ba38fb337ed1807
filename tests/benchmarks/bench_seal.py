"""Tuning of an encoder by expression: whether it helps, its memory, and its resumption.

    python tests/benchmarks/bench_seal.py --part synthetic|memory|resume

`synthetic`: a small vision transformer of random weights, frozen and tuned, on three patients that nothing was fitted on; PCC of
a ridge on its embedding, mean over 40 genes. `shuffled` is SEAL with expression shuffled among the training rows of each patient.
`memory`: one step of the second stage with 384 patches of 224 px, ViT-S/16 and 2,000 genes, by the size of its parts.
`resume`: trainings killed by SIGKILL, resumed, and compared bit by bit with one that was not.
"""

from __future__ import annotations

import argparse

import seal_runs
import seal_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["synthetic", "memory", "resume"], default="synthetic")
    parser.add_argument("--rng", type=int, default=0, help="seed of the synthetic cohort")
    arguments = parser.parse_args()
    if arguments.part == "synthetic":
        print(seal_synthetic.synthetic(seed=arguments.rng).round(3).to_string())
    else:
        getattr(seal_runs, arguments.part)()


if __name__ == "__main__":
    main()
