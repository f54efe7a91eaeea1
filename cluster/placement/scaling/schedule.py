"""Says which bounds of the replica count hold at a moment."""

from datetime import datetime, timedelta

from cluster.placement.policy.schema import ReplicasPolicy, ScheduleEntry
from cluster.placement.policy.week import days_of, minute_of, zone_of


def bounds_at(policy: ReplicasPolicy, wall: datetime) -> tuple[int, int]:
    """Return the least and the most replicas at ``wall``, an aware time.

    Each entry of the schedule that holds replaces the bounds that it names; a later one wins.
    Where the least would be above the most, the most holds.
    """
    low, high = policy.min, policy.max
    for entry in policy.schedule:
        if holds(entry, wall):
            low = entry.min if entry.min is not None else low
            high = entry.max if entry.max is not None else high
    return min(low, high), high


def holds(entry: ScheduleEntry, wall: datetime) -> bool:
    """Return whether an entry holds at ``wall``; past midnight it belongs to the day before."""
    local = wall.astimezone(zone_of(entry.zone))
    days = days_of(entry.days)
    begin, end = minute_of(entry.from_), minute_of(entry.to)
    minute = local.hour * 60 + local.minute
    if begin < end:
        return local.weekday() in days and begin <= minute < end
    yesterday = (local - timedelta(days=1)).weekday()
    return (local.weekday() in days and minute >= begin) or (yesterday in days and minute < end)
