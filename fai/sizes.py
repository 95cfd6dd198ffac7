"""Sizes of files as a person reads them."""

UNITS = ("B", "kB", "MB", "GB", "TB")


class Size(int):
    """A number of bytes: a number to a program, `1.2 MB` in a sentence."""

    def __str__(self) -> str:
        value, unit = float(self), 0
        # What would round up to 1000.0 is told in the next unit.
        while value >= 999.95 and unit < len(UNITS) - 1:
            value, unit = value / 1_000, unit + 1
        return f"{value:.1f} {UNITS[unit]}" if unit else f"{int(self)} {UNITS[0]}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)
