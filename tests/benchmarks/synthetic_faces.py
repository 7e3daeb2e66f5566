"""Times drawing built-in faces on one core, at several sizes.

    python tests/benchmarks/synthetic_faces.py

Prints one line of JSON: {"faces_per_second": {side: median of seven runs}}.
"""

import json
import statistics
import time

import cv2

from ferjax.data.synthetic import SyntheticFaces

FACES, REPEATS = 1000, 7


def main() -> None:
    """Draws faces and prints the rates."""
    cv2.setNumThreads(1)
    rates = {}
    for side in (32, 48, 112):
        faces = SyntheticFaces(seed=0, size=FACES, image_size=side)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            for row in range(FACES):
                faces[row]
            seconds.append(time.perf_counter() - start)
        rates[side] = round(FACES / statistics.median(seconds))
    print(json.dumps({"faces_per_second": rates}))


if __name__ == "__main__":
    main()
