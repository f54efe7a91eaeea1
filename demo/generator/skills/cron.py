"""A schedule in words -> a five-field cron expression."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots
from demo.generator.skills.vocabulary import WEEKDAYS, ordinal

_JOBS = (
    "the backup", "the report", "the cleanup", "the sync", "the newsletter", "the invoice job",
    "the health check", "the import", "the export", "the index rebuild", "the log rotation",
    "the cache refresh",
)  # fmt: skip


def _clock(rng: Random) -> tuple[str, str, str]:
    """Draw a time of day as people write it, with its cron hour and minute."""
    hour, minute = rng.randint(0, 23), rng.choice((0, 0, 5, 10, 15, 20, 30, 40, 45, 50))
    if minute == 0 and rng.random() < 0.5:
        half = "am" if hour < 12 else "pm"
        return f"{(hour - 1) % 12 + 1} {half}", str(hour), "0"
    return f"{hour}:{minute:02d}", str(hour), str(minute)


def _fill(rng: Random) -> Slots:
    time, hour, minute = _clock(rng)
    weekday = rng.randrange(7)
    day = rng.randint(1, 28)
    return {
        "job": rng.choice(_JOBS),
        "time": time,
        "hour": hour,
        "minute": minute,
        "weekday": WEEKDAYS[weekday],
        "weekday_number": str(weekday),
        "day": ordinal(day),
        "day_number": str(day),
        "step": str(rng.choice((2, 3, 4, 5, 6, 10, 12, 15, 20, 30))),
    }


SKILL = Skill(
    name="cron",
    description="Writes a schedule given in words as a five-field cron expression.",
    intents=(
        Intent(
            train=(
                "Run {job} every day at {time}.",
                "Schedule {job} daily at {time}.",
                "Start {job} each day at {time}.",
                "Every day at {time}, run {job}.",
                "Cron for {job}, daily at {time}.",
                "At {time} every day",
            ),
            heldout=(
                "Please run {job} at {time} every day.",
                "Daily at {time}, start {job}.",
                "{job} should run each day at {time}.",
            ),
            fill=_fill,
            answer="{minute} {hour} * * *",
        ),
        Intent(
            train=(
                "Run {job} every {weekday} at {time}.",
                "Schedule {job} on {weekday}s at {time}.",
                "Every {weekday} at {time}, start {job}.",
                "Cron for {job}, each {weekday} at {time}.",
                "At {time} every {weekday}",
            ),
            heldout=(
                "Please run {job} at {time} every {weekday}.",
                "On {weekday}s at {time}, start {job}.",
                "{job} should run each {weekday} at {time}.",
            ),
            fill=_fill,
            answer="{minute} {hour} * * {weekday_number}",
        ),
        Intent(
            train=(
                "Run {job} every {step} minutes.",
                "Schedule {job} every {step} minutes.",
                "Start {job} once every {step} minutes.",
                "Every {step} minutes, run {job}.",
                "Cron for {job} every {step} minutes.",
            ),
            heldout=(
                "Please run {job} every {step} minutes.",
                "Start {job} each {step} minutes.",
                "{job} should run every {step} minutes.",
            ),
            fill=_fill,
            answer="*/{step} * * * *",
        ),
        Intent(
            train=(
                "Run {job} on the {day} of every month at {time}.",
                "Schedule {job} monthly on the {day} at {time}.",
                "On the {day} of each month at {time}, start {job}.",
                "Cron for {job}, the {day} of each month at {time}.",
                "At {time} on the {day} of every month",
            ),
            heldout=(
                "Please run {job} at {time} on the {day} of each month.",
                "Every month on the {day} at {time}, start {job}.",
                "{job} should run on the {day} of every month at {time}.",
            ),
            fill=_fill,
            answer="{minute} {hour} {day_number} * *",
        ),
        Intent(
            train=(
                "Run {job} on weekdays at {time}.",
                "Schedule {job} every weekday at {time}.",
                "Monday to Friday at {time}, start {job}.",
                "Cron for {job}, weekdays at {time}.",
                "At {time} from Monday to Friday",
            ),
            heldout=(
                "Please run {job} at {time} on weekdays.",
                "On weekdays at {time}, start {job}.",
                "{job} should run at {time}, Monday to Friday.",
            ),
            fill=_fill,
            answer="{minute} {hour} * * 1-5",
        ),
    ),
)
