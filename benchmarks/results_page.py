"""Put what `make results` made into docs/results.md: tables between their markers, and pictures.

A marker is `<!-- table NAME -->` before and `<!-- end -->` after; NAME is a file `NAME.md` in the
results' folder. Pictures are those that the page shows. `python -m benchmarks.results_page FOLDER`
"""

import re
import shutil
from pathlib import Path

import typer

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def main(folder: Path) -> None:
    """Bring the page up to date; what the folder does not have stays as it is, and is named."""
    text = PAGE.read_text(encoding="utf-8")

    def filled(match: "re.Match[str]") -> str:
        source = folder / f"{match['name']}.md"
        if not source.is_file():
            typer.echo(f"{source} is missing: the table in {PAGE.name} stays as it is")
            return match[0]
        table = source.read_text(encoding="utf-8").strip()
        return f"<!-- table {match['name']} -->\n\n{table}\n\n<!-- end -->"

    pattern = r"<!-- table (?P<name>[\w/-]+) -->\n.*?<!-- end -->"
    PAGE.write_text(re.sub(pattern, filled, text, flags=re.DOTALL), encoding="utf-8")
    for name in re.findall(r"\(images/results/([\w.-]+)\)", text):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, PAGE.parent / "images" / "results" / name)
        else:
            typer.echo(f"{folder / name} is missing: the picture stays as it is")


if __name__ == "__main__":
    typer.run(main)
