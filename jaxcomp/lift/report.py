"""What ran on each compressed leaf: a table to print, and rows to look at."""

from typing import NamedTuple

from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift.call import named


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


def row(path: str, leaves: list[Leaf], operation: str, ran: str, why: str) -> Row:
    """A Row of a leaf, or of several of one format that were joined."""
    nbytes, size = (sum(getattr(leaf, name) for leaf in leaves) for name in ("nbytes", "size"))
    return Row(path, leaves[0].describe(), nbytes, size, operation, ran, why)


class Report(NamedTuple):
    """Rows in the order in which leaves were met, then the unused ones. str() is a table.

    held: path -> (bytes, values) of every compressed leaf.
    """

    rows: list[Row]
    held: dict[str, tuple[int, int]]

    @property
    def materialised(self) -> list[Row]:
        """Rows of leaves whose dense array was made."""
        return [row for row in self.rows if row.ran == "dense"]

    def __str__(self) -> str:
        head = ("leaf", "format", "bytes", "bits", "operation", "ran", "why")
        body = [
            (
                named(row.path),
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
        held, values = (sum(each) for each in zip((0, 0), *self.held.values(), strict=True))
        lines.append(
            f"{len(self.held)} compressed leaves, {held:,} bytes, "
            f"{8 * held / max(1, values):.3f} bits per weight, "
            f"{len({row.path for row in self.materialised})} made dense"
        )
        return "\n".join(lines)
