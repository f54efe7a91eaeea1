"""Words that several skills draw from."""

FIRST_NAMES = (
    "Maria", "Tom", "Aisha", "Ken", "Lena", "Omar", "Sara", "Ivan", "Nina", "Paul", "Grace",
    "Hugo", "Mei", "David", "Elif", "Carlos", "Ruth", "Jonas", "Priya", "Alan", "Zoe", "Peter",
    "Fatima", "Noah", "Clara", "Ahmed", "Julia", "Marco", "Helen", "Samuel",
)  # fmt: skip
LAST_NAMES = (
    "Lopez", "Becker", "Khan", "Tanaka", "Novak", "Silva", "Moreau", "Rossi", "Larsen", "Smith",
    "Kowalski", "Weber", "Haddad", "Chen", "Murphy", "Costa", "Dubois", "Fischer", "Brown", "Park",
)  # fmt: skip
CITIES = (
    "Lyon", "Berlin", "Porto", "Oslo", "Dublin", "Madrid", "Rome", "Vienna", "Boston", "Cairo",
    "Delhi", "Kyoto", "Lima", "Prague", "Seoul", "Toronto", "Nairobi", "Austin", "Geneva", "Perth",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
WEEKDAYS = (
    "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
)  # fmt: skip


def ordinal(number: int) -> str:
    """Write `number` as in a date: 1st, 2nd, 3rd, 11th.

    Example: `ordinal(22)` is "22nd".
    """
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
