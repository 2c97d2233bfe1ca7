"""Location in time of a block run by a tool that prints no time stamps.

Only bounds are known. A line was printed before it arrived, by no more than the transport delay of the link; the runs
began after the process did (and after the steps it reports first), and ended before the line that reports them arrived;
and the tool's own statistics give their total duration. Start and end are the middles of the intervals these bounds
allow, and the uncertainty is that of a uniform distribution over them (JCGM 100:2008, 4.3.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepen.errors import LinkError

__all__ = ["BlockTimes", "locate_block_between_lines", "locate_block_of_known_length"]


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """Start and end of a block on the host's clock.

    Attributes:
        start_s: Its start, seconds.
        end_s: Its end, seconds.
        uncertainty_s: Standard uncertainty of either, seconds.
    """

    start_s: float
    end_s: float
    uncertainty_s: float


def locate_block_between_lines(
    begun_s: float, start_line_s: float, end_line_s: float, least_s: float, delay_s: float
) -> BlockTimes:
    """Locate a block between a line printed just before its first run and one printed just after its last.

    A tool with buffered output prints both at once; the lines then show only that the block came before them, and the
    uncertainty is accordingly large.

    Args:
        begun_s: Host time before which no run can have begun (the start of the process), seconds.
        start_line_s: Arrival of the first line, seconds.
        end_line_s: Arrival of the second line, seconds.
        least_s: Sum of the runs' durations by the tool's statistics, seconds: the block is at least as long.
        delay_s: Longest delay of a line, seconds.

    Raises:
        LinkError: If the statistics and the host's clock contradict each other.
    """
    latest_start = min(start_line_s, end_line_s - least_s)
    if latest_start < begun_s - delay_s:
        raise LinkError(
            f"a block of {least_s:.3g} s by the tool's counts does not fit into the "
            f"{end_line_s - begun_s:.3g} s in which it ran by the host's clock: lines arrive late or "
            "the device's clock is off",
            cure="measure again",
        )
    held_back = end_line_s - start_line_s < least_s - delay_s
    earliest_start = begun_s if held_back else max(begun_s, start_line_s - delay_s)
    earliest_start = min(earliest_start, latest_start)
    earliest_end = earliest_start + least_s
    if not held_back:
        earliest_end = max(earliest_end, end_line_s - delay_s)
    earliest_end = min(earliest_end, end_line_s)
    width = max(latest_start - earliest_start, end_line_s - earliest_end)
    return BlockTimes((earliest_start + latest_start) / 2, (earliest_end + end_line_s) / 2, width / math.sqrt(12))


def locate_block_of_known_length(begun_s: float, end_line_s: float, wall_s: float, delay_s: float) -> BlockTimes:
    """Locate a block of known length whose end is bounded only by a line printed some time later.

    Args:
        begun_s: Host time before which no run can have begun, seconds.
        end_line_s: Arrival of a line printed after the last run, seconds.
        wall_s: Length of the block by the tool's clock, seconds.
        delay_s: Longest delay of a line, seconds.

    Raises:
        LinkError: If the block does not fit between the bounds.
    """
    earliest, latest = begun_s, end_line_s - wall_s
    if latest < earliest - delay_s:
        raise LinkError(
            f"a block of {wall_s:.3g} s by the tool's clock does not fit into the "
            f"{end_line_s - begun_s:.3g} s in which it ran by the host's: the device's clock is off, "
            "or lines arrive late",
            cure="measure again",
        )
    earliest = min(earliest, latest)
    start_s = (earliest + latest) / 2
    return BlockTimes(start_s, start_s + wall_s, (latest - earliest) / math.sqrt(12))
