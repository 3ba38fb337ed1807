"""Expression from H&E: models beside scikit-learn on real sections.

    HISTOCELL_DATA_DIR=<folder with her2st/> python tests/benchmarks/bench_seal.py --part sections

`sections`: models trained on some her2st sections and tested on others, the 50 and 250 genes whose logarithm of counts per 10,000
varies most in the training sections; features are `morphology`, measurements of nuclei and a vision transformer of random weights.
PCC per gene and section, mean over genes, then sections, with a 95 % interval over spots. RidgeCV is scikit-learn's, on
standardised features, one penalty for all genes, rows left out one by one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import expression_sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["sections"], default="sections")
    parser.add_argument("--features", nargs="+", default=list(expression_sections.FEATURES))
    parser.add_argument("--models", nargs="+", default=list(expression_sections.MODELS))
    parser.add_argument("--csv", type=Path, help="write every score here")
    arguments = parser.parse_args()
    scores = expression_sections.sections(tuple(arguments.features), tuple(arguments.models))
    print(expression_sections.show(scores))
    if arguments.csv:
        scores.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
