"""Makes vader_reviews.csv.gz from the sdist of vaderSentiment, as README.md says. Knows nothing of training."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = {"amazon": "amazonReviewSnippets_GroundTruth.txt", "film": "movieReviewSnippets_GroundTruth.txt"}
NEUTRAL_BELOW = 0.5  # people's mean scores run from -4 to 4; nearer to 0 than this is no clear opinion


def rows(sdist: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """(id, text, rating, label, source) of every snippet, in the order of the paper's files."""
    with tarfile.open(sdist) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
        for source, file in SOURCES.items():
            content = inner.extractfile(f"hutto_ICWSM_2014/{file}")
            assert content is not None
            for line in content.read().decode("utf-8-sig").split("\n"):
                if line.strip():
                    number, mean, text = line.rstrip("\r").split("\t")
                    rating = float(mean)
                    label = "" if abs(rating) < NEUTRAL_BELOW else "positive" if rating > 0 else "negative"
                    yield f"{source}-{number}", text.strip(), f"{rating:.2f}", label, source


def main() -> None:
    sdist = Path(sys.argv[1])
    if (found := hashlib.sha256(sdist.read_bytes()).hexdigest()) != SDIST_SHA256:
        sys.exit(f"{sdist}: sha256 is {found}, expected {SDIST_SHA256}")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "text", "rating", "label", "source"])
    writer.writerows(rows(sdist))
    target = Path(__file__).with_name("vader_reviews.csv.gz")
    target.write_bytes(gzip.compress(table.getvalue().encode(), 9, mtime=0))
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
