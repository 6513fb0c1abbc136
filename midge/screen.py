"""Where a command that goes on for a while shows what it does: lines that stay and, on a terminal,
a picture below them that changes.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class Screen:
    """The lines and the picture; the picture is gone once the `with` block has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Take the terminal, if there is one."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def draw(self, picture: Callable[[], RenderableType]) -> None:
        """Show this picture from now on; it is not even made where there is no terminal."""
        if self._console.is_terminal:
            self._live.update(picture())
