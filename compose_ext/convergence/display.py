"""Display of a waiting deployment: one live line a service on a terminal, a line for each change elsewhere.

All goes to standard error, beside Docker's own words. rich is imported for a terminal alone, as in `terminal`.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from compose_ext.convergence.judgement import Judgement, Line
from compose_ext.terminal import line as one_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_DONE, _WAITING, _FAILED = ("ok", "green"), ("..", "yellow"), ("!!", "red")


class Display:
    """Lines of a deployment, from entering to leaving it.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._shown: dict[str, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Take the terminal's lines, if there is a terminal that can move them."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - see the module's docstring
            from rich.live import Live  # noqa: PLC0415

            console = Console(file=sys.stderr, highlight=False)
            if console.is_terminal and not console.is_dumb_terminal:
                self._live = Live(console=console, auto_refresh=False)
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last lines on the terminal."""
        if self._live:
            self._live.stop()

    def show(self, judgement: Judgement) -> None:
        """Show a judgement."""
        if self._live:
            width = max(len(line.service) for line in judgement.lines)
            from rich.console import Group  # noqa: PLC0415 - see the module's docstring

            self._live.update(Group(*(_styled(line, width) for line in judgement.lines)), refresh=True)
            return
        for line in judgement.lines:
            if not self._quiet and self._shown.get(line.service) != line.text:
                self._shown[line.service] = line.text
                print(f"linkwire: {one_line(f'{line.service}: {line.text}')}", file=sys.stderr, flush=True)


def _styled(line: Line, width: int) -> "Text":
    from rich.text import Text  # noqa: PLC0415 - see the module's docstring

    word, colour = _FAILED if line.given_up else _WAITING if line.missing else _DONE
    shown = Text(no_wrap=True, overflow="ellipsis")
    return shown.append(word, colour).append(f"  {line.service.ljust(width)}  {one_line(line.text)}")
