"""What ran on each compressed leaf: a table to print, and rows to look at."""

from typing import NamedTuple


class Row(NamedTuple):
    """One leaf in one operation.

    ran is the kernel, or "dense" where the dense weight was made; why says why nothing better.
    """

    path: str
    format: str
    nbytes: int
    size: int
    operation: str
    ran: str
    why: str


class Report(NamedTuple):
    """Rows, in the order in which the leaves were met. str() is a table."""

    rows: list[Row]

    @property
    def materialised(self) -> list[Row]:
        """Rows of leaves whose dense array was made."""
        return [row for row in self.rows if row.ran == "dense"]

    def __str__(self) -> str:
        head = ("leaf", "format", "bytes", "bits", "operation", "ran", "why")
        body = [
            (
                row.path,
                row.format,
                f"{row.nbytes:,}",
                f"{8 * row.nbytes / max(1, row.size):.2f}",
                row.operation,
                row.ran,
                row.why,
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        right = (2, 3)
        lines = [
            "  ".join(
                text.rjust(width) if i in right else text.ljust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [head, *body]
        ]
        sizes = {row.path: (row.nbytes, row.size) for row in self.rows}
        held, values = map(sum, zip(*sizes.values(), strict=True)) if sizes else (0, 0)
        lines.append(
            f"{len(sizes)} compressed leaves, {held:,} bytes, {8 * held / max(1, values):.3f} bits "
            f"per weight, {len(self.materialised)} made dense"
        )
        return "\n".join(lines)
