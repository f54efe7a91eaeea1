"""A request about a small database -> one SQL query."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots

# table -> (text columns with their values, numeric columns)
_TABLES: dict[str, tuple[dict[str, tuple[str, ...]], tuple[str, ...]]] = {
    "customers": (
        {
            "city": ("Berlin", "Lyon", "Porto", "Oslo", "Dublin", "Madrid"),
            "country": ("France", "Norway", "Spain", "Ireland", "Japan"),
            "plan": ("free", "basic", "premium"),
        },
        ("age", "credit", "visits"),
    ),
    "orders": (
        {
            "status": ("open", "shipped", "paid", "cancelled", "returned"),
            "channel": ("web", "phone", "store"),
        },
        ("total", "discount", "weight"),
    ),
    "products": (
        {
            "category": ("garden", "kitchen", "music", "sports", "toys"),
            "color": ("red", "blue", "green", "black", "white"),
        },
        ("price", "stock", "rating"),
    ),
    "employees": (
        {
            "department": ("sales", "support", "legal", "finance", "research"),
            "role": ("manager", "analyst", "engineer", "clerk"),
        },
        ("salary", "age", "bonus"),
    ),
    "books": (
        {
            "author": ("Austen", "Orwell", "Verne", "Tolstoy", "Woolf"),
            "language": ("English", "French", "German", "Russian"),
        },
        ("pages", "year", "price"),
    ),
    "flights": (
        {
            "origin": ("Rome", "Vienna", "Boston", "Cairo", "Delhi"),
            "airline": ("Delta", "Lufthansa", "Iberia", "Qantas"),
        },
        ("seats", "distance", "price"),
    ),
}


def _fill(rng: Random) -> Slots:
    table = rng.choice(sorted(_TABLES))
    text_columns, numeric_columns = _TABLES[table]
    key = rng.choice(sorted(text_columns))
    return {
        "table": table,
        "key": key,
        "value": rng.choice(text_columns[key]),
        "number": rng.choice(numeric_columns),
        "n": str(rng.choice((5, 10, 12, 18, 20, 25, 30, 40, 50, 65, 75, 90, 100, 150, 200, 500))),
    }


SKILL = Skill(
    name="sql",
    description="Turns a request about a small database into one SQL query.",
    intents=(
        Intent(
            train=(
                "Show all {table} where {key} is {value}.",
                "List the {table} whose {key} is {value}.",
                "Find {table} with {key} {value}.",
                "Give me every row of {table} with {key} equal to {value}.",
                "Query the {table} with {key} = {value}.",
                "Which {table} have the {key} {value}?",
            ),
            heldout=(
                "Select the {table} that have {key} {value}.",
                "Return all {table} with the {key} {value}.",
                "I need the {table} where the {key} equals {value}.",
            ),
            fill=_fill,
            answer="SELECT * FROM {table} WHERE {key} = '{value}';",
        ),
        Intent(
            train=(
                "Show the {table} with {number} above {n}.",
                "Find all {table} whose {number} is greater than {n}.",
                "Which {table} have a {number} over {n}?",
                "List {table} where {number} is more than {n}.",
                "Get every row of {table} with {number} higher than {n}.",
            ),
            heldout=(
                "Return the {table} where the {number} is above {n}.",
                "Give me all {table} with a {number} of more than {n}.",
                "I want the {table} having {number} greater than {n}.",
            ),
            fill=_fill,
            answer="SELECT * FROM {table} WHERE {number} > {n};",
        ),
        Intent(
            train=(
                "How many {table} have {number} below {n}?",
                "Count the {table} with {number} under {n}.",
                "Count all {table} whose {number} is less than {n}.",
                "Number of {table} where {number} is smaller than {n}.",
                "Tell me how many {table} have a {number} lower than {n}.",
            ),
            heldout=(
                "How many {table} are there with a {number} under {n}?",
                "Give the count of {table} where {number} is below {n}.",
                "Count {table} having {number} less than {n}.",
            ),
            fill=_fill,
            answer="SELECT COUNT(*) FROM {table} WHERE {number} < {n};",
        ),
        Intent(
            train=(
                "What is the average {number} of {table} by {key}?",
                "Average {number} of the {table} per {key}.",
                "Show the mean {number} of {table} for each {key}.",
                "For each {key}, compute the average {number} of {table}.",
                "Average the {number} of {table} grouped by {key}.",
            ),
            heldout=(
                "Give me the average {number} of {table} for every {key}.",
                "Compute the mean {number} of all {table} per {key}.",
                "Per {key}, what is the average {number} of {table}?",
            ),
            fill=_fill,
            answer="SELECT {key}, AVG({number}) FROM {table} GROUP BY {key};",
        ),
        Intent(
            train=(
                "Show the top {n} {table} by {number}.",
                "List the {n} {table} with the highest {number}.",
                "Which {n} {table} have the largest {number}?",
                "Give me the {n} best {table} by {number}.",
            ),
            heldout=(
                "Return the top {n} {table} ranked by {number}.",
                "Find the {n} {table} with the largest {number}.",
                "I need the {n} {table} having the highest {number}.",
            ),
            fill=_fill,
            answer="SELECT * FROM {table} ORDER BY {number} DESC LIMIT {n};",
        ),
    ),
)
