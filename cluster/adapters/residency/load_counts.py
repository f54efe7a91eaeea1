"""Counts the adapters loaded to the device, by the tier that they came from."""

from dataclasses import dataclass, field

from cluster.domain.work import LoadTotals


@dataclass(slots=True)
class LoadCounts:
    """Totals of successful loads since the start. ``SlotLoader`` alone changes them."""

    host: LoadTotals = field(default_factory=LoadTotals)
    disk: LoadTotals = field(default_factory=LoadTotals)

    def count_load(self, nbytes: int, write_s: float, read_s: float | None) -> None:
        """Add a load.

        Args:
            nbytes: on the device.
            write_s: of the copy to the slot.
            read_s: of reading and checking the files; None: the adapter was in host memory.
        """
        before = self.host if read_s is None else self.disk
        after = LoadTotals(
            before.loads + 1, before.nbytes + nbytes, before.seconds + write_s + (read_s or 0.0)
        )
        if read_s is None:
            self.host = after
        else:
            self.disk = after
