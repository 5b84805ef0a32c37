"""Four models whose lines can be reckoned, beside what is measured on them: pictures and numbers.

The noisy quadratic model, a linear model, two linear layers, and networks of growing width.

    python examples/theory.py theory            # about three minutes on one core
    python examples/theory.py theory --small    # some seconds: fewer runs, widths and seeds
"""

import argparse

import torch

from lerpscape.papers.lucas2021.theory.run_theory import run_theory


def main() -> None:
    """Run, draw into the folder, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the four pictures go")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # networks as small as these gain nothing from more
    found = (
        run_theory(arguments.folder, activations=("relu",), widths=(16, 64), seeds=(0, 1), runs=200)
        if arguments.small
        else run_theory(arguments.folder)
    )
    print("\n".join(found.lines()))
    print("pictures: " + ", ".join(str(path) for path in found.pictures.values()))


if __name__ == "__main__":
    main()
