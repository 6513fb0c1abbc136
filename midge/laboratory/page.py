"""Self-contained HTML pages: jinja2 templates with the pictures inside the file."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(path: Path, template: str, **content: object) -> None:
    """Fill `templates/{template}.html` and write the page; whatever is in `content` is escaped."""
    environment = Environment(
        loader=PackageLoader("midge.laboratory"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(f"{template}.html").render(**content)
    path.write_text(page, encoding="utf-8")


def embedded(figure: "Figure", dpi: int = 110) -> str:
    """A figure as the `src` of an `<img>`: a PNG within the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
