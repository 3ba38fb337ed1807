"""Expression and H&E: models beside scikit-learn on real sections; tuning of an encoder, whether it helps, memory, resumption.

    HISTOCELL_DATA_DIR=<folder with her2st/> python tests/benchmarks/bench_seal.py --part sections|tuned|synthetic|memory|resume

`sections`: models trained on some her2st sections and tested on others, the 50 and 250 genes whose logarithm of counts per 10,000
varies most in the training sections; features are `morphology`, measurements of nuclei and a vision transformer of random weights.
PCC per gene and section, mean over genes, then sections, with a 95 % interval over spots. RidgeCV is scikit-learn's, on
standardised features, one penalty for all genes, rows left out one by one.
`tuned`: a vision transformer of random weights, frozen and tuned on the training sections, on the others.
`synthetic`: a small vision transformer of random weights, frozen and tuned, on three patients that nothing was fitted on; PCC of
a ridge on its embedding, mean over 40 genes. `shuffled` is SEAL with expression shuffled among the training rows of each patient.
`memory`: one step of the second stage with 384 patches of 224 px, ViT-S/16 and 2,000 genes, by the size of its parts.
`resume`: trainings killed by SIGKILL, resumed, and compared bit by bit with one that was not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import expression_sections
import seal_runs
import seal_sections
import seal_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["sections", "synthetic", "memory", "resume", "tuned"], default="sections")
    parser.add_argument("--features", nargs="+", default=list(expression_sections.FEATURES))
    parser.add_argument("--models", nargs="+", default=list(expression_sections.MODELS))
    parser.add_argument("--csv", type=Path, help="write every score of the sections here")
    parser.add_argument("--rng", type=int, default=0, help="seed of the synthetic cohort")
    arguments = parser.parse_args()
    if arguments.part == "synthetic":
        print(seal_synthetic.synthetic(seed=arguments.rng).round(3).to_string())
    elif arguments.part == "tuned":
        print(expression_sections.show(seal_sections.tuned()))
    elif arguments.part in ("memory", "resume"):
        getattr(seal_runs, arguments.part)()
    else:
        scores = expression_sections.sections(tuple(arguments.features), tuple(arguments.models))
        print(expression_sections.show(scores))
        if arguments.csv:
            scores.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
